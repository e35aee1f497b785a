"""Parts that buy labels."""

"""Parts that make starting structures."""

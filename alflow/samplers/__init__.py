"""Parts that move structures and bring home candidates."""

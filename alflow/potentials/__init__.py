"""Parts that fit."""

"""Parts that turn a fitted model into a gauge."""

"""Arrays on disk."""

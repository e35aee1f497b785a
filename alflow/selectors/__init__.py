"""Parts that pick which candidates are worth a label."""

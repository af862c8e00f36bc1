"""documents -> corpus."""

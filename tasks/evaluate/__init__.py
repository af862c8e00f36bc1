"""checkpoint -> report."""

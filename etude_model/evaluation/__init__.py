"""checkpoint -> figures: bits per byte, retrieval, samples."""

"""Shards -> batches: position-addressed streams, so that a resume is one integer."""

"""Using a checkpoint: load, generate, stream text, embed."""

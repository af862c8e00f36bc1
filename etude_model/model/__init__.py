"""The network: a Qwen3-shaped decoder, its loss and its low-rank updates."""

"""passages / pairs / dialogues + tokenizer -> shards."""

"""passages -> tokenizer."""

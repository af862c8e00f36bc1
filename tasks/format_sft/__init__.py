"""corpus + user files -> dialogues."""

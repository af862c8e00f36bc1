"""The clean room: wikitext becomes training text."""

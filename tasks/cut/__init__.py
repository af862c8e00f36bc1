"""corpus -> passages."""

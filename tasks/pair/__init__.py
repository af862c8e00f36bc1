"""corpus -> pairs."""

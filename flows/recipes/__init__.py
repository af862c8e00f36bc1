"""Recipes: YAML files that name what differs from the defaults, and the demo's data."""

"""The fetch room: a dump from a file, a package, a recipe or a URL."""

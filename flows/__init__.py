"""What happens, in order: the Prefect flows, the recipes and the `etude` command."""

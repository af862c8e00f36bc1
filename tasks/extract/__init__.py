"""The extract room: the XML of a dump becomes one row per page."""

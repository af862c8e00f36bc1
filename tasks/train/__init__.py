"""The training room: one child process, four stages."""

"""The errors that a user is meant to read. Everything else is a bug and keeps its traceback."""

from __future__ import annotations


class BadInput(ValueError):
    """The user's input cannot be used: one line says what is wrong and what to do (exit code 2)."""


class Damaged(RuntimeError):
    """A stored file is missing or does not match its digest; its stage has to run again."""


class Stopped(RuntimeError):
    """Work was stopped on request and can be taken up again (exit code 75)."""


EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75

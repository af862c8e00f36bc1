"""The errors that a user is meant to read. Everything else is a bug and keeps its traceback."""

from __future__ import annotations


class BadInput(ValueError):
    """The user's input cannot be used: one line says what is wrong and what to do (exit code 2)."""


class ChildFailed(RuntimeError):
    """A training process ended badly; the message says how and where its log is (exit code 1)."""


class Stopped(RuntimeError):
    """Work was stopped on request and can be taken up again (exit code 75)."""


EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 70
EXIT_OUT_OF_MEMORY = 71
EXIT_STOPPED = 75

"""SIGTERM, Ctrl-C or a dead parent -> a flag that the loop looks at between steps.

Torch is not imported here, so that the handlers are in place before its import takes its second.
A signal may come twice (Prefect signals the group, the task the child); a flag does not mind.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Let Linux send this process a SIGTERM when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class StopRequest:
    """Call it to learn whether the run should leave."""

    def __init__(self) -> None:
        self._parent_pid: int | None = None
        self._signalled = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as the wish to stop, SIGUSR1 as the wish to see all stacks."""
        if hasattr(faulthandler, "register"):  # not on Windows
            faulthandler.register(signal.SIGUSR1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._set())

    def follow(self, parent_pid: int | None) -> None:
        """Stop when the parent is gone; without a parent's id the run belongs to nobody.

        Linux sends SIGTERM at the parent's death; elsewhere, and for a parent that died before
        this call, the parent's id is compared at each step.
        """
        self._parent_pid = parent_pid
        if parent_pid is not None:
            die_with_parent()

    def __call__(self) -> bool:
        """Return whether a signal came or the parent is gone."""
        is_orphan = self._parent_pid is not None and os.getppid() != self._parent_pid
        return self._signalled or is_orphan

    def _set(self) -> None:
        self._signalled = True

"""Some steps of a run -> logs/trace.json.gz, to be looked at in chrome://tracing or Perfetto."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from torch.profiler import (
    ProfilerActivity,
    _ExperimentalConfig,
    profile,
    schedule,
    supported_activities,
)

TRACE_FILE = "trace.json.gz"
WAITED, WARMED = 2, 1  # steps before: compilation and first allocations would drown the rest


class Trace:
    """A context around the loop; call `step` after each step. With 0 steps it does nothing."""

    def __init__(self, folder: Path, num_steps: int) -> None:
        """Trace `num_steps` steps, from this process's fourth on, into `folder`."""
        self._profile = None
        if num_steps:
            known = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
            self._profile = profile(
                activities=known & supported_activities(),
                schedule=schedule(wait=WAITED, warmup=WARMED, active=num_steps, repeat=1),
                on_trace_ready=lambda done: done.export_chrome_trace(str(folder / TRACE_FILE)),
                record_shapes=True,
                experimental_config=_ExperimentalConfig(profile_all_threads=True),  # replicas'
            )

    def step(self) -> None:
        """Note that a step has ended."""
        if self._profile is not None:
            self._profile.step()

    def __enter__(self) -> Trace:
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._profile is not None:
            self._profile.stop()

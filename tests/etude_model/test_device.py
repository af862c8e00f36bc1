"""Devices: what a process asks of the machine it trains on."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from etude_model.device import keep_freed_memory

def step():  # 64 MB, as a forward pass has them: several blocks at once
    return [torch.ones(2 << 20) for _ in range(8)]

keep_freed_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is asked")
def test_a_step_reuses_the_memory_of_the_last() -> None:
    """Catches a request that the allocator does not take: 49,000 page faults in three steps."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 5_000

"""config -> device and number format of a forward pass; asks the hardware, times nothing.

bfloat16 means autocast: weights stay as they are, the matrix products run in half precision. Two
runs on one machine must be bit for bit the same, so nothing is measured here.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import AbstractContextManager

import torch

from etude_model.config import DEVICE
from storage.errors import BadInput

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_BLOCK = 1 << 30


def keep_freed_memory() -> None:
    """Let this process keep what a step frees for the next step; does nothing without glibc.

    By default large blocks go back to the system at once and come again as empty pages: 50,000
    page faults a step of 13.8M weights and 2,048 tokens, with this fewer than 500.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(parameter, _LARGEST_BLOCK)


def pick_device(name: str) -> torch.device:
    """Return the device that a config names; "auto" is the GPU where there is one."""
    if not re.match(DEVICE, name):
        raise BadInput(f"device={name!r} is unknown; use auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"device={name!r} but torch sees no GPU; set device to cpu or auto")
    return torch.device(name)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the forward pass's dtype for `precision` auto, float32, bfloat16 or pure_bfloat16."""
    if precision != "auto":
        return torch.float32 if precision == "float32" else torch.bfloat16
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Say whether the device multiplies in bfloat16 itself, and so gains by it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has: dict[str, bool | int | str] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return the context of a forward pass in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)

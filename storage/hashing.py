"""One stable hash of a text, the same in every process, on every machine, for ever."""

from __future__ import annotations

import hashlib


def stable_hash(text: str) -> int:
    """Return a 64-bit unsigned hash: the first 8 bytes of the text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

"""When two texts count as equal: after case folding and collapsing of white space."""

from __future__ import annotations

import hashlib

CONTENT_BYTES = 16


def content_hash(text: str) -> str:
    """Return the hash by which two texts count as equal, 32 hex digits."""
    return normal_hash(text, CONTENT_BYTES).hex()


def normal_hash(text: str, num_bytes: int) -> bytes:
    """Return the BLAKE2b hash of the text without regard to case and white space."""
    normal = " ".join(text.casefold().split())
    return hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=num_bytes).digest()

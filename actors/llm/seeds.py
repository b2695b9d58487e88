"""Seeds that follow from another seed, the same on every machine."""

from __future__ import annotations

import hashlib


def derived(seed: int, *path: int) -> int:
    """The seed of a part of something that has a seed: choice 2, row 1,000, … In 0 … 2**63 - 1."""
    words = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest()) >> 1

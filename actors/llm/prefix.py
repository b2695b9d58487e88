"""Names for blocks of keys and values: a chain of hashes, so that equal beginnings find what was computed for them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256

BlockHash = bytes
"""16 bytes that name a full block: its tokens, all tokens before it, the model's revision and the salt.

The same on every machine and in every process, so it is also the key of other tiers and of routing by cached prefix.
"""

ROOT: BlockHash = bytes(16)
"""The parent of a sequence's first block."""

TOKEN_LIMIT = 2**32
"""Token ids are hashed as unsigned 32-bit integers, little endian."""


def extra_keys(*keys: str) -> bytes:
    """What else must be equal for blocks to be shared (model revision, tenant salt), each with its length before it so
    that no two lists of keys read the same."""
    encoded = [key.encode() for key in keys]
    return b"".join(struct.pack("<I", len(key)) + key for key in encoded)


def block_hash(parent: BlockHash, tokens: Sequence[int], extra: bytes) -> BlockHash:
    """The name of the block that holds `tokens` after the block `parent`: sha256 cut to 128 bits."""
    return sha256(parent + struct.pack(f"<{len(tokens)}I", *tokens) + extra).digest()[:16]


def extend(hashes: list[BlockHash], tokens: Sequence[int], block_size: int, extra: bytes, blocks: int) -> None:
    """Lengthen `hashes` in place until it names the first `blocks` blocks of `tokens`; they must be full."""
    for index in range(len(hashes), blocks):
        parent = hashes[-1] if hashes else ROOT
        hashes.append(block_hash(parent, tokens[index * block_size : (index + 1) * block_size], extra))

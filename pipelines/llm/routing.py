"""Which replica gets a request: the least loaded, and among those that are nearly so the one that knows its prefix."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ...actors.llm.request import Request

SLACK = 4
"""A replica that knows the prefix is taken if it has at most so many requests more than the least loaded one."""
PREFIX = 64
"""Tokens at the beginning of a prompt that say what it shares with others: four blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A replica that serves now."""

    epoch: int
    load: int
    """Requests on it, running and waiting, of all services as far as known."""
    leaving: bool = False
    """Its donor takes nothing new; it serves only while nobody else does."""


def prefix_key(request: Request) -> bytes:
    """What requests have in common that should meet on one replica: whose they are, and how their prompt begins."""
    head = ",".join(map(str, request.prompt[:PREFIX]))
    return blake2b(f"{request.salt}\0{head}".encode(), digest_size=8).digest()


def choose(candidates: Sequence[Candidate], key: bytes, *, avoid: Collection[int] = ()) -> Candidate | None:
    """The replica for a request, None if there is none.

    `avoid`: epochs that failed it before; they are taken only if there is no other. A prefix meets its replica by
    rendezvous hashing, within a bound on the load: consistent hashing with bounded loads (Mirrokni et al., 2016).
    """
    for among in (
        [one for one in candidates if not one.leaving and one.epoch not in avoid],
        [one for one in candidates if one.epoch not in avoid],
        candidates,
    ):
        if among:
            least = min(one.load for one in among)
            return max((one for one in among if one.load <= least + SLACK), key=lambda one: _affinity(one, key))
    return None


def _affinity(candidate: Candidate, key: bytes) -> bytes:
    return blake2b(key + candidate.epoch.to_bytes(8, "big"), digest_size=8).digest()

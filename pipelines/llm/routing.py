"""Which replica gets a request: the least loaded, then the soonest, then the one that knows its prefix."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ...actors.llm.request import Request

SLACK = 4
"""A replica that knows the prefix is taken if it has at most so many requests more than the least loaded one."""
ABOUT = 1.25
"""Replicas that take longer for a token than so many times the soonest are taken when those are busy."""
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
    token_seconds: float | None = None
    """One token of a single session, over all stages and what lies between them. None: nobody knows."""


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
            free = [one for one in among if one.load <= least + SLACK]
            return max(_soonest(free), key=lambda one: _affinity(one, key))
    return None


def _soonest(among: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those on which a single session's token comes about as soon as on any."""
    known = [one.token_seconds for one in among if one.token_seconds is not None]
    return [one for one in among if one.token_seconds is None or one.token_seconds <= ABOUT * min(known)]


def _affinity(candidate: Candidate, key: bytes) -> bytes:
    return blake2b(key + candidate.epoch.to_bytes(8, "big"), digest_size=8).digest()

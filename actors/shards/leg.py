"""What both ends of a link must agree on: where it is, whose it is, and how long either end waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from .frame import NO_MODEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where an inlet listens, and what opens it."""

    address: str
    """As ``tcp://127.0.0.1:4711``."""
    token: str = field(repr=False)
    """Secret of this one inlet; it travels only by Dask's own, authenticated, control plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The part of a chain's way that one link is."""

    chain: bytes
    """16 bytes, those of a UUID."""
    epoch: int
    """Raised whenever a stage of the chain is replaced."""
    model: bytes = NO_MODEL
    """Of the weights and their revision: 8 bytes."""
    layers: range = range(0)
    """What the sender computes; empty for the head, that sends plans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds that the ends of a link wait for each other."""

    beat: float = 0.5
    """Between two pings."""
    silence: float = 5.0
    """The other end may say nothing for so long until the connection counts as dead."""
    connect: float = 5.0
    """For one try to connect, until the other end has said welcome."""
    patience: float = 15.0
    """The other end may be away for so long until the link is lost."""
    retry: float = 0.05
    """Before the first new try; each pause is twice the one before, a second at most."""

    def silent(self, beats: int) -> bool:
        """Beats are counted, not seconds: while this process itself was stopped, the other had no chance to answer."""
        return beats * self.beat >= self.silence

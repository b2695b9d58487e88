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

    beat: float = 0.1
    """Between two pings."""
    silence: float = 0.5
    """The other end may say nothing for so long until the connection counts as dead; longer where it is slow."""
    connect: float = 5.0
    """For one try to connect, until the other end has said welcome."""
    patience: float = 0.5
    """The other end may be away for so long until the link is lost; longer where it is slow."""
    longest: float = 5.0
    """What `silence` and `patience` may grow to."""
    retry: float = 0.05
    """Before the first new try; each pause is twice the one before, a second at most."""

    def allowed(self, least: float, slowest: float) -> float:
        """Seconds for an end whose slowest answer took `slowest`: `least` where it is quick."""
        return max(least, min(SLOWER * slowest, self.longest))


SLOWER = 5.0
"""So many times its slowest answer may an end take: a machine that is busy with others is not dead."""


class Pulse:
    """How soon the other end answers a ping: the next one is sent when there was a word.

    Beats are counted, not seconds: while this process itself was stopped, the other had no chance to answer.
    """

    FADES = 0.995
    """What was slow is forgotten: half of it in 138 answers, 14 s where they come at once."""

    def __init__(self, pace: Pace) -> None:
        self.slowest = 0.0
        """Seconds that an answer took, lately."""
        self._pace, self._asked, self._quiet = pace, 0.0, 0

    def connected(self, seconds: float) -> None:
        """So long it took until the other end said welcome."""
        self.slowest, self._quiet = max(seconds, self.slowest), 0

    def beat(self, now: float) -> bool:
        """Another beat. Whether to ask: a ping that waits for its answer is enough."""
        if self._quiet == 0:
            self._asked = now
        self._quiet += 1
        return self._quiet == 1

    def answered(self, now: float) -> None:
        """A word came."""
        if self._quiet:
            self.slowest = max(now - self._asked, self.slowest * self.FADES)
        self._quiet = 0

    @property
    def silent(self) -> bool:
        """Nothing has come for too long."""
        pace = self._pace
        return (self._quiet - 1) * pace.beat >= pace.allowed(pace.silence, self.slowest)

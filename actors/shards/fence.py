"""Which frames of a chain count: those of the newest epoch, each step once, in order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Judgement(StrEnum):
    """What a frame is worth."""

    TAKE = "take"
    STALE = "stale"
    """Of an epoch that is over: its sender has been replaced."""
    DUPLICATE = "duplicate"
    """A step that was taken before."""
    GAP = "gap"
    """A step after one that has not come, or an epoch that was not opened: the link itself is at fault."""


@dataclass(slots=True)
class Fence:
    """Of one chain, at one of its stages. Only `open` and `take` change anything."""

    epoch: int
    expected: int = 0
    """The step that comes next."""

    def open(self, epoch: int, first: int) -> bool:
        """Somebody wants to send from step `first` on. Whether a new epoch begins with it.

        In the epoch that holds `expected` stays, and tells what was lost; an epoch that is over changes nothing.
        """
        if epoch <= self.epoch:
            return False
        self.epoch, self.expected = epoch, first
        return True

    def judge(self, epoch: int, step: int) -> Judgement:
        """What to make of a frame."""
        if epoch < self.epoch:
            return Judgement.STALE
        if epoch > self.epoch or step > self.expected:
            return Judgement.GAP
        if step < self.expected:
            return Judgement.DUPLICATE
        return Judgement.TAKE

    def take(self) -> None:
        """The step that was expected has been taken."""
        self.expected += 1

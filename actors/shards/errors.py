"""What can go wrong between two stages."""

from __future__ import annotations


class FrameRefused(ConnectionError):
    """What came is no frame that may be taken: the connection it came on can't be used any more."""


class LinkLost(ConnectionError):
    """The other end is gone, and did not come back in time."""

    def __init__(self, why: str, *, nobody: bool = False) -> None:
        super().__init__(why)
        self.nobody = nobody
        """Nobody listens at its door any more; else it may be that it only says nothing."""


class LinkRefused(ConnectionError):
    """The other end doesn't take this link: a wrong token, a chain that isn't known there, other layers or weights."""


class LinkFenced(LinkRefused):
    """The other end has heard of a later epoch: whoever sends in this one has been replaced."""


class LinkTimeout(TimeoutError):
    """The other end took nothing for as long as the caller would wait. What was to be sent was not."""

"""What can go wrong on the way to an engine. What the engine itself says is `RequestRefused`, `QueueFull` and so on."""

from __future__ import annotations

from ..llm.engine_face import EngineClosed, QueueFull
from ..llm.request import RequestRefused


class ChannelLost(ConnectionError):
    """The way to a replica is gone, with all that was under way on it; the message says why."""


class StreamLost(ConnectionError):
    """The replica gave up this one request without an end of its own; the message says why. Go on elsewhere."""


class StreamMoved(StreamLost):
    """The replica is being closed in good order, and asks to go on elsewhere: nothing is wrong with the request."""


KINDS: dict[str, type[Exception]] = {
    "refused": RequestRefused,
    "full": QueueFull,
    "closed": EngineClosed,
    "lost": StreamLost,
    "moved": StreamMoved,
}
"""Words on the wire → what they raise at the client."""


def kind_of(error: Exception) -> str:
    """The word for an exception: that of its nearest class, ``lost`` for all that nobody foresaw."""
    words = {cls: word for word, cls in KINDS.items()}
    return next((words[cls] for cls in type(error).__mro__ if cls in words), "lost")

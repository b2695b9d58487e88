"""Endless sources through the grid: bounded work in flight, and every record in the sink exactly once."""

from .done import Done, Piece
from .errors import Overtaken, StreamError, StreamStopped
from .flow import StreamReport
from .stream import Stream, StreamStatus

__all__ = ["Done", "Overtaken", "Piece", "Stream", "StreamError", "StreamReport", "StreamStatus", "StreamStopped"]

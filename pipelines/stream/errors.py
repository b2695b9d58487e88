"""What can go wrong in a stream. Each message says what happened, with which value, and what to do next."""

from __future__ import annotations


class StreamError(Exception):
    """A stream can't start or can't go on. What is in the sink stays, and the same stream goes on from there."""


class Overtaken(StreamError):
    """Another process writes this stream into the same sink. This one has written nothing since, and ends."""


class StreamStopped(StreamError):
    """The stream was stopped before its source ended."""

"""The Python SDK: jobs over HTTP, with `GridClient` and `AsyncGridClient`. The base install is enough for it."""

from __future__ import annotations

from .client import AsyncGridClient, GridClient
from .errors import GridError, JobFailed, Refused, Unavailable, WaitTimedOut
from .options import JobOptions
from .results import Completion, Embeddings, Image, ImageAnswer, Segment, Transcription, Usage, Word
from .values import Event, Job, JobPage, Opinion, Queue, Submitted, Why

__all__ = [
    "AsyncGridClient",
    "Completion",
    "Embeddings",
    "Event",
    "GridClient",
    "GridError",
    "Image",
    "ImageAnswer",
    "Job",
    "JobFailed",
    "JobOptions",
    "JobPage",
    "Opinion",
    "Queue",
    "Refused",
    "Segment",
    "Submitted",
    "Transcription",
    "Unavailable",
    "Usage",
    "WaitTimedOut",
    "Why",
    "Word",
]

"""The life of a batch as pure rules: which status may follow which, as OpenAI's API names them."""

from __future__ import annotations

from enum import StrEnum


class BatchStatus(StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "validating"
    """Its input is read, before anything is computed."""
    FAILED = "failed"
    """The input can't be used; `errors` says why, line by line. Or what lay on disk is lost."""
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    """All lines are computed; the output files are put together."""
    COMPLETED = "completed"
    EXPIRED = "expired"
    """Its window ended first. What was computed is in the output; the other lines are in the error file."""
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    """As with `EXPIRED`."""


OPEN = frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING})
"""Somebody has to work on it."""
MOVES: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.FAILED, BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING}),
    BatchStatus.IN_PROGRESS: frozenset(
        {BatchStatus.FINALIZING, BatchStatus.EXPIRED, BatchStatus.CANCELLING, BatchStatus.FAILED}
    ),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED, BatchStatus.FAILED}),
}


def may_follow(before: BatchStatus, after: BatchStatus) -> bool:
    """Whether a batch may go from the one to the other. What has ended never changes."""
    return after in MOVES.get(before, frozenset())

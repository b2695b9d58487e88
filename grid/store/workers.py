"""The workers that are known."""

from __future__ import annotations

from .values import WorkerFacts, WorkerRecord


class WorkerStore:
    """Workers and when they were last heard of. Rows stay when a worker leaves: attempts point to them."""

    def upsert(self, facts: WorkerFacts) -> WorkerRecord:
        """Note what a worker says of itself; it counts as heard of now."""
        raise NotImplementedError

    def heartbeat(self, id: str, status: str = "online") -> bool:  # noqa: A002
        """It lives. False when nobody knows it."""
        raise NotImplementedError

    def list(self) -> list[WorkerRecord]:
        """All workers by id."""
        raise NotImplementedError

"""Stays of workers at the grid: opened when a process of a worker is heard of first, closed when it leaves or dies."""

from __future__ import annotations

import uuid

from .database import Session

OPEN = """
INSERT INTO sessions (id, worker_id, incarnation, started_at) VALUES (:id, :worker_id, :incarnation, {now})
"""
CLOSE = "UPDATE sessions SET ended_at = {now}, graceful = :graceful WHERE worker_id = :worker_id AND ended_at IS NULL"


def arrived(session: Session, worker_id: str, incarnation: str) -> None:
    """Another process of the worker speaks: the stay of the one before it, if still open, ended without a word."""
    left(session, worker_id, graceful=False)
    session.run(OPEN, {"id": uuid.uuid4().hex, "worker_id": worker_id, "incarnation": incarnation})


def left(session: Session, worker_id: str, *, graceful: bool) -> None:
    """The worker said goodbye (`graceful`), or was not heard of for too long."""
    session.run(CLOSE, {"worker_id": worker_id, "graceful": graceful})

"""The life of a job as pure rules: which move is allowed, and what it changes. Instants are µs since the epoch."""

from __future__ import annotations


class Stale(Exception):
    """A move came under a fence, or from a worker process, that no longer holds the job; it changed nothing."""

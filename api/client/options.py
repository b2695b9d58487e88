"""What every way to submit a job can be told."""

from __future__ import annotations

from typing import TypedDict


class JobOptions(TypedDict, total=False):
    """Options of a job. What is left out, the service decides (SPEC of the Jobs API)."""

    priority: int
    """-100 to 100, higher first; 0 without it."""
    region: str | None
    """Preferred region code. Without it the service goes by the address that the request comes from."""
    allow_cross_region: bool
    """False: only workers of that region."""
    timeout_seconds: float
    """Wall time of one attempt; 300 without it."""
    idempotency_key: str
    """A repeat with the same key gives the first job again. Without it one is made for each call."""

"""Rows of the database as values, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ..job_rules import JobState
from ..jobs import JobRecord, JobStatus
from .database import Row
from .values import Attempt, Event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def instant(microseconds: int) -> datetime:
    """µs since the epoch as an aware datetime, exactly."""
    return EPOCH + timedelta(microseconds=microseconds)


def instant_or_none(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else instant(microseconds)


def microseconds(at: datetime) -> int:
    """The inverse of `instant`. Raises TypeError on a naive datetime."""
    return (at - EPOCH) // MICROSECOND


def us(seconds: float) -> int:
    return round(seconds * 1_000_000)


def to_json(value: Mapping[str, Any] | list[str]) -> str:
    """As plain ASCII, so that no database has an opinion on it. Raises ValueError on NaN and on what is not JSON."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"it can't be kept as JSON: {error}") from error


def plain(text: str | None, longest: int = 4000) -> str | None:
    """Text that every database can hold: no NUL, no half of a surrogate pair, not endless."""
    if text is None:
        return None
    return text[:longest].replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def record(row: Row, *, result: dict[str, Any] | None = None) -> JobRecord:
    """A row of `jobs`; a row without `params` gives a record without them."""
    params = row.get("params")
    return JobRecord(
        id=row["id"],
        type=row["type"],
        params=json.loads(params) if params else {},
        status=JobStatus(row["status"]),
        priority=row["priority"],
        region=row["region"],
        allow_cross_region=bool(row["allow_cross_region"]),
        timeout_seconds=row["timeout_us"] / 1_000_000,
        attempts=row["attempts"],
        worker_id=row["worker_id"],
        result=result,
        error=row["error"],
        created_at=instant(row["created_at"]),
        started_at=instant_or_none(row["started_at"]),
        completed_at=instant_or_none(row["completed_at"]),
        client_id=row["client_id"],
        client_ip=row["client_ip"],
        trace_id=row["trace_id"],
        fence=row["fence"],
        holder=row["holder"],
        incarnation=row["incarnation"],
        lease_until=instant_or_none(row["lease_until"]),
        deadline=instant_or_none(row["deadline"]),
        not_before=instant(row["not_before"]),
        errors=row["errors"],
        deaths=row["deaths"],
        losses=row["losses"],
        killed=names(row["killed"]),
        excluded=names(row["excluded"]),
        cancel_requested=bool(row["cancel_requested"]),
        progress=json.loads(row["progress"]) if row["progress"] else None,
        error_code=row["error_code"],
    )


def names(text: str) -> frozenset[str]:
    return frozenset(json.loads(text)) if text != "[]" else frozenset()


def state(row: Row) -> JobState:
    """What the rules look at in a row of `jobs`."""
    same = {name: row[name] for name in SAME}
    return JobState(
        status=JobStatus(row["status"]),
        timeout=row["timeout_us"],
        killed=names(row["killed"]),
        excluded=names(row["excluded"]),
        cancel_requested=bool(row["cancel_requested"]),
        **same,
    )


def changes(job: JobState) -> dict[str, Any]:
    """The columns that a move may change."""
    return {
        "status": job.status.value,
        "killed": to_json(sorted(job.killed)),
        "excluded": to_json(sorted(job.excluded)),
        "cancel_requested": job.cancel_requested,
        **{name: getattr(job, name) for name in SAME if name != "created_at"},
    }


SAME = (
    "created_at",
    "fence",
    "not_before",
    "holder",
    "lease_until",
    "worker_id",
    "incarnation",
    "started_at",
    "deadline",
    "completed_at",
    "attempts",
    "errors",
    "deaths",
    "losses",
    "error_code",
    "error",
)
"""What a row and a JobState have under the same name and in the same form."""


def attempt(row: Row) -> Attempt:
    """A row of `attempts`."""
    return Attempt(
        job_id=row["job_id"],
        fence=row["fence"],
        holder=row["holder"],
        worker_id=row["worker_id"],
        incarnation=row["incarnation"],
        claimed_at=instant(row["claimed_at"]),
        begun_at=instant_or_none(row["begun_at"]),
        ended_at=instant_or_none(row["ended_at"]),
        outcome=row["outcome"],
        detail=row["detail"],
        verdicts=json.loads(row["verdicts"]) if row["verdicts"] else None,
    )


def event(row: Row) -> Event:
    """A row of `outbox`."""
    return Event(row["seq"], row["job_id"], row["kind"], json.loads(row["data"]), instant(row["at"]))

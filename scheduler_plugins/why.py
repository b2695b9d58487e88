"""Why is this task waiting? An answer for any key, with what every donor says to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..grid.jobs import Ask
from ..grid.placement import explain
from ..grid.verdicts import Reason, Verdict
from .lanes import Key, Lane, TaskState
from .placer import lot
from .plugin import GridPlugin
from .roster import WorkerState

VERSION = 1


def grid_why(grid: GridPlugin, key: Key) -> dict[str, Any]:
    """What is known of a task: its state in Dask's word and in a sentence, and for grid tasks every donor's verdict.

    `state` is Dask's, or ``unknown``. `candidates` come best first, then those who refuse. Times are ISO 8601 in UTC.
    """
    key = tuple(key) if isinstance(key, list) else key
    ts = grid.scheduler.tasks.get(key)
    answer: dict[str, Any] = {"version": VERSION, "key": key, "state": "unknown", "since": None, "ask": None}
    if ts is None:
        return {**answer, "summary": "no such task: it was released after it finished, or never came", "candidates": []}
    lane = grid.lane(ts)
    since = _since(grid, ts)
    answer |= {"state": ts.state, "since": since.isoformat() if since else None}
    if lane is None:
        return {
            **answer,
            "summary": f"{_stock(ts)}; a task of stock Dask, to which our rules don't apply",
            "candidates": [],
        }
    answer["ask"] = lane.ask.to_annotation()
    finished = ts.state in ("memory", "erred", "released", "forgotten") and not (ts.actor and ts.state == "memory")
    candidates = [] if finished else _candidates(grid, ts, lane)
    return {**answer, "summary": _summary(grid, ts, lane, candidates), "candidates": candidates}


def _since(grid: GridPlugin, ts: TaskState) -> datetime | None:
    """When the task began to wait for a donor, or was given to one."""
    if (waiter := grid.lanes.get(ts.key)) is not None:
        return waiter.since
    held = grid.assigned.get(ts)
    return None if held is None else held.since


def _stock(ts: TaskState) -> str:
    if ts.waiting_on:
        names = ", ".join(sorted(str(dependency.key) for dependency in ts.waiting_on)[:3])
        return f"waits for {len(ts.waiting_on)} other task{'s' if len(ts.waiting_on) > 1 else ''} ({names})"
    if ts.processing_on is not None:
        return f"is with {ts.processing_on.name}"
    return {"memory": "finished", "erred": "failed", "queued": "waits for a thread"}.get(ts.state, f"is {ts.state}")


def _summary(grid: GridPlugin, ts: TaskState, lane: Lane, candidates: list[dict[str, Any]]) -> str:
    held = grid.assigned.get(ts)
    if held is not None:
        return f"{'the actor lives on' if ts.actor else 'is with'} {held.seat.donor.name or held.seat.donor.id}"
    if ts.state == "erred":
        return f"failed: {ts.exception_text or 'see its future'}"
    if ts.state != "no-worker":
        return _stock(ts)
    if not candidates:
        return "waits: no worker is here"
    refusals = Counter(row["verdict"] for row in candidates if row["verdict"] != Reason.ACCEPTED)
    if sum(refusals.values()) < len(candidates):
        ahead = grid.lanes.ahead(ts.key)
        return f"waits for its turn: {ahead} with the same needs go before it" if ahead else "is being offered now"
    told = ", ".join(f"{count} × {reason}" for reason, count in refusals.most_common())
    moments = [row["retry_at"] for row in candidates if row["retry_at"]]
    return f"waits: nobody may take it now ({told})" + (f"; time helps at {min(moments)}" if moments else "")


def grid_explain(grid: GridPlugin, ask: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What every worker would say to a piece of work that is no task yet; `ask` as in an annotation.

    `candidates` as in `grid_why`. Raises TypeError on an ask that can't be read.
    """
    return {"version": VERSION, "candidates": _opinions(grid, key, Lane(Ask.from_annotation(ask)), None)}


def _candidates(grid: GridPlugin, ts: TaskState, lane: Lane) -> list[dict[str, Any]]:
    """Every worker with its verdict on a task."""
    allowed = grid.scheduler.stock_valid_workers(ts) if lane.restrictions and not ts.loose_restrictions else None
    return _opinions(grid, ts.key, lane, allowed)


def _opinions(grid: GridPlugin, key: Key, lane: Lane, allowed: set[WorkerState] | None) -> list[dict[str, Any]]:
    """Every worker with its verdict; `allowed`: those that Dask's own restrictions leave, None for all."""
    now, placer = grid.now, grid.placer
    try:
        if lane.error:
            raise ValueError(lane.error)
        told = explain(placer.timed(lane), grid.roster.donors, now, lambda id_: lot(key, id_, now, placer.offer_every))
    except Exception as problem:  # noqa: BLE001 - the answer says what the rule says, and so that it fails
        broken = Verdict(Reason.POLICY_ERROR, f"{type(problem).__name__}: {problem}")
        told = [(seat.donor, broken, None) for seat in grid.roster]
    rows = []
    for donor, verdict, score in told:
        seat = grid.roster.get(donor.id)
        if seat is not None and verdict and allowed is not None and seat.ws not in allowed:
            verdict, score = Verdict(Reason.EXCLUDED, "the task was submitted for other workers"), None
        rows.append(_row(donor.id, donor.name, donor.region, verdict, score))
    strangers = [ws for ws in grid.scheduler.workers.values() if grid.roster.of(ws) is None]
    said_nothing = Verdict(Reason.NO_FACTS, "runs without our plugin, or another worker has its donor's id")
    return rows + [_row(ws.address, str(ws.name), None, said_nothing, None) for ws in strangers]


def _row(worker: str, name: str, region: str | None, verdict: Verdict, score: float | None) -> dict[str, Any]:
    return {
        "worker": worker,
        "name": name,
        "region": region,
        "verdict": verdict.reason.value,
        "detail": verdict.detail,
        "retry_at": verdict.retry_at.isoformat() if verdict.retry_at else None,
        "score": score,
    }

"""The grid as one JSON document: what the CLI, the notebook, the page and ``/grid-api`` all show."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

from distributed.core import Status

from ..grid.acceptance import free_memory_gb, standing
from ..grid.donors import DonorState
from ..grid.regions import REGIONS
from ..grid.reliability import LATENCY_WEIGHT, SENIORITY_WEIGHT, STABILITY_WEIGHT, SUCCESS_WEIGHT, Score
from ..grid.verdicts import Reason, Verdict
from .plugin import GridPlugin
from .roster import Seat

VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come without."""
WEIGHTS = {
    "success": SUCCESS_WEIGHT,
    "stability": STABILITY_WEIGHT,
    "latency": LATENCY_WEIGHT,
    "seniority": SENIORITY_WEIGHT,
}
"""What each term counts in the reliability score."""


def grid_state(grid: GridPlugin) -> dict[str, Any]:
    """The whole grid, now. Times are ISO 8601 in UTC, memory is in GB, latencies are in ms."""
    now = grid.now
    workers = sorted((_worker(grid, seat, now) for seat in grid.roster), key=lambda row: (row["region"], row["name"]))
    known = {seat.ws.address for seat in grid.roster}
    return {
        "version": VERSION,
        "time": now.isoformat(),
        "address": grid.scheduler.address,
        "problem": grid.placer.problem or None,
        "workers": workers,
        "without_facts": sorted(str(ws.name) for ws in grid.scheduler.workers.values() if ws.address not in known),
        "regions": _regions(grid, workers),
        "running_by_type": {type_: count for type_, count in sorted(grid.running_by_type.items()) if count},
        "waiting_by_type": dict(grid.lanes.waiting_by_type()),
        "weights": WEIGHTS,
        "deployments": grid.deployed.now(now),
    }


def _worker(grid: GridPlugin, seat: Seat, now: datetime) -> dict[str, Any]:
    donor, load, account = seat.donor, seat.load, grid.ledger.account(seat.donor.id)
    verdict = stands(seat, now)
    score = grid.ledger.score(donor.id, now)
    return {
        "id": donor.id,
        "name": donor.name or str(seat.ws.name),
        "address": seat.ws.address,
        "region": donor.region,
        "country": donor.country,
        "city": donor.city,
        "state": state_of(verdict).value,
        "reason": None if verdict else verdict.detail,
        "until": verdict.retry_at.isoformat() if verdict.retry_at else None,
        "score": round(score.total, 3),
        "terms": terms(score),
        "running": load.running,
        "waiting": max(0, len(seat.ws.processing) - len(seat.ws.long_running) - seat.ws.nthreads),
        "max_concurrent_jobs": donor.limits.max_concurrent_jobs,
        "started_last_hour": load.started_last_hour,
        "max_jobs_per_hour": donor.limits.max_jobs_per_hour,
        "acceptance_rate": donor.limits.acceptance_rate,
        "supported_types": sorted(donor.supported_types),
        "models": sorted(donor.models),
        "loaded": sorted(load.loaded),
        "gpu_model": donor.gpu_model,
        "gpu_memory_gb": donor.gpu_memory_gb,
        "gpu_memory_used_gb": load.gpu_memory_used_gb,
        "gpu_memory_free_gb": max(0.0, free_memory_gb(donor, load)) if donor.gpu_memory_gb > 0 else None,
        "memory_gb": seat.ws.memory_limit / 1e9 or None,
        "memory_used_gb": seat.ws.memory.process / 1e9,
        "threads": seat.ws.nthreads,
        "pace": donor.pace,
        "speeds": [one.to_wire() for one in seat.report.speeds],
        "links": dict(seat.report.links),
        "jobs_done": account.past.jobs_done,
        "jobs_lost": account.interrupted,
        "job_errors": account.job_errors,
        "avg_latency_ms": account.mean_latency_ms,
    }


def terms(score: Score) -> dict[str, float]:
    """The four terms of a reliability score, each 0 to 1, before their weights."""
    return {name: round(getattr(score, name), 3) for name in WEIGHTS}


def stands(seat: Seat, now: datetime) -> Verdict:
    """Whether a donor takes any work now; tells Dask's own pause from the owner's."""
    verdict = standing(seat.donor, seat.load, now)
    if verdict.reason is Reason.PAUSED and not seat.report.paused:
        word = "starting" if seat.ws.status is Status.init else f"its Dask worker is {seat.ws.status.name}"
        return Verdict(Reason.PAUSED, word)
    return verdict


def state_of(verdict: Verdict) -> DonorState:
    """The one word for a donor that gives this verdict on any work at all."""
    words = {
        Reason.ACCEPTED: DonorState.ONLINE,
        Reason.CONCURRENCY: DonorState.BUSY,
        Reason.DRAINING: DonorState.DRAINING,
    }
    return words.get(verdict.reason, DonorState.PAUSED)


def _regions(grid: GridPlugin, workers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Totals by region code, for regions with workers or with work that prefers them."""
    waiting = grid.lanes.waiting_by_region()
    codes = {row["region"] for row in workers} | {region for region in waiting if region in REGIONS}
    totals: dict[str, dict[str, Any]] = {}
    for code in sorted(codes):
        rows = [row for row in workers if row["region"] == code]
        states = Counter(row["state"] for row in rows)
        totals[code] = {
            "name": REGIONS[code].name,
            "workers": len(rows),
            **{state.value: states[state.value] for state in DonorState if state is not DonorState.OFFLINE},
            "running": sum(row["running"] for row in rows),
            "slots": sum(row["max_concurrent_jobs"] for row in rows),
            "waiting": waiting.get(code, 0),
        }
    return totals

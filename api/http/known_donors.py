"""Workers as the store knows them, for placement: with the limits, the score and the pace that the grid keeps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from threading import Lock

from pydantic import ValidationError

from ...grid.config import Settings
from ...grid.config.donor import LoadControl
from ...grid.donors import IDLE, Donor, Limits, Load
from ...grid.jobs import Ask
from ...grid.regions import REGIONS
from ...grid.reliability import NEUTRAL, ratio_of
from ...grid.store import Store, WorkerRecord

HOURS = ("working_hours_start", "working_hours_end", "schedule")
"""Load control that is told by the clock of the donor's own time zone."""
GOOD_FOR = 10.0
"""Seconds for which it is believed how long work usually takes."""


def donor_of(worker: WorkerRecord) -> Donor:
    """A worker of the store as placement sees it. With limits that nobody can read, it takes nothing."""
    facts, score = worker.facts, worker.reliability
    limits = limits_of(worker.config)
    return Donor(
        id=facts.id,
        name=facts.name,
        region=facts.region or next(iter(REGIONS)),
        country=facts.country,
        city=facts.city,
        gpu_model=facts.gpu_model,
        gpu_memory_gb=facts.gpu_memory_gb,
        supported_types=frozenset() if limits is None else facts.supported_types,
        models=worker.models,
        limits=limits or Limits(),
        reliability=score["total"] if score else NEUTRAL,
        avg_latency_ms=worker.avg_latency_ms,
        pace=ratio_of(score["latency"]) if score else 1.0,
    )


def load_of(worker: WorkerRecord) -> Load:
    """What a worker that asks for its jobs does now, as far as it is known."""
    return Load(running=1) if worker.facts.status == "busy" else IDLE


@lru_cache(maxsize=4096)
def limits_of(config: str | None) -> Limits | None:
    """The owner's limits in a worker's remote configuration (JSON). None: they can't be read.

    Without a time zone in it the hours are the worker's own affair: only its machine knows when they are.
    """
    try:
        control = LoadControl.model_validate(json.loads(config) if config else {})
        if control.time_zone is None:
            control = control.model_copy(update={**dict.fromkeys(HOURS), "time_zone": "UTC"})
        return Settings(load_control=control).limits()
    except (ValidationError, ValueError):
        return None


class Usual:
    """How long work usually takes, looked up now and then. Its methods block: for threads."""

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, Lock()
        self._known: dict[str, float] = {}
        self._asked: set[str] = set()
        self._good_until = float("-inf")

    def of(self, types: Iterable[str]) -> dict[str, float]:
        """Job type → seconds, of those that are known."""
        wanted = frozenset(types)
        with self._lock:
            if time.monotonic() > self._good_until or not wanted <= self._asked:
                self._asked |= wanted
                self._known = self._store.sessions.usual_seconds(sorted(self._asked))
                self._good_until = time.monotonic() + GOOD_FOR
            return self._known

    def timed(self, ask: Ask) -> Ask:
        """The ask with the time that such work usually takes, if it doesn't say one."""
        return ask if ask.seconds else replace(ask, seconds=self.of([ask.type]).get(ask.type, 0.0))

"""Who of those that ask for work gets a waiting job: the policy that pushes work, from the other side."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .donor_index import Donors
from .jobs import Ask
from .placement import Draw, order, rank

PATIENCE = 2.0
"""Seconds for which a job waits for a better donor that will ask again; then the best that asks may have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job that may be claimed."""

    job_id: str
    ask: Ask
    seconds: float
    """For how long it has waited."""


@dataclass(frozen=True, slots=True)
class Given:
    """What becomes of one waiting job at this moment."""

    donor_id: str | None = None
    """Who gets it. None: nobody who asks may have it now."""
    kept_for: str | None = None
    """Id of the better donor for whom it is kept a moment longer."""


def give(job: Waiting, asking: Donors, others: Donors, now: datetime, draw: Draw) -> Given:
    """To whom `job` goes of those that are `asking` at `now` (aware).

    `others` get work in the same way, and don't ask at this moment: they will again. `draw` gives the lot of the job at
    a donor that asks.
    """
    best = rank(job.ask, asking, now, draw, limit=1)
    if not best:
        return Given()
    taker = best[0].donor_id
    # who already draws lots for other work doesn't keep this from somebody who is here
    rival = rank(job.ask, others, now, lambda _: 0.0, limit=1) if job.seconds < PATIENCE else []
    if rival and order(job.ask, *others.get(rival[0].donor_id)) < order(job.ask, *asking.get(taker)):
        return Given(kept_for=rival[0].donor_id)
    return Given(donor_id=taker)

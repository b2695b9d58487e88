"""Which waiting job a donor that asks for work gets: the policy that pushes work, from the other side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from .acceptance import decide
from .donors import Donor, Load
from .jobs import Ask
from .placement import Draw, rank
from .verdicts import Verdict

PATIENCE = 2.0
"""Seconds for which a job waits for a better donor that also asks for work; then the next that asks may have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job that may be claimed."""

    job_id: str
    ask: Ask
    seconds: float
    """For how long it has waited."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one waiting job is to the donor that asks."""

    job_id: str
    verdict: Verdict
    better: str | None = None
    """Id of the donor for whom it is kept a moment longer."""

    @property
    def taken(self) -> bool:
        return bool(self.verdict) and self.better is None


def offers(
    jobs: Iterable[Waiting],
    donor: Donor,
    load: Load,
    others: Sequence[tuple[Donor, Load]],
    now: datetime,
    draw: Draw,
) -> Iterable[Offer]:
    """What `donor` may have of `jobs`, which come in the order of the queue. The first `taken` one is its job.

    `others` are the donors that ask for work too. `draw` gives the lot of a job (its id) at the asking donor.
    """
    for job in jobs:
        verdict = decide(job.ask, donor, load, now, draw(job.job_id))
        better = _better(job, donor, load, others, now) if verdict and job.seconds < PATIENCE else None
        yield Offer(job.job_id, verdict, better)


def _better(job: Waiting, donor: Donor, load: Load, others: Sequence[tuple[Donor, Load]], now: datetime) -> str | None:
    rivals = [(other, its_load) for other, its_load in others if other.id != donor.id]
    # who already draws lots for other work doesn't keep this from somebody who is here
    best = rank(job.ask, [(donor, load), *rivals], now, lambda _: 0.0, limit=1)
    return best[0].donor_id if best and best[0].donor_id != donor.id else None

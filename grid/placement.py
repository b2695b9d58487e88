"""Which donor gets the work: hard exclusions, then the highest score. One policy for tasks, actors and pulled jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from .acceptance import decide
from .donor_index import Donors
from .donors import Donor, Load
from .jobs import Ask
from .regions import nearness
from .scoring import BUSY_FACTOR, LOADED_FACTOR, factor, gpu_points, merit, score, tie_break
from .verdicts import Verdict

__all__ = ["Choice", "Donors", "Draw", "appraise", "explain", "order", "rank"]

Draw = Callable[[str], float]
"""Donor id → this ask's lot at that donor, in [0, 1): an `acceptance_rate` takes the work when the lot is below it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A donor that may take the work, with its score and the factors that made it."""

    donor_id: str
    score: float
    """Higher is better; comparable between the choices for one ask."""
    nearness: float
    """Of the donor's region to the preferred one, in (0, 1]."""
    reliability: float
    gpu_points: float
    busy: bool
    loaded: bool
    """The model is already resident."""

    @property
    def why(self) -> str:
        """The factors of the score, for people."""
        parts = [
            f"nearness {self.nearness:.2f}",
            f"reliability {self.reliability:.2f}",
            f"GPU {self.gpu_points:g}" if self.gpu_points >= 100 else f"no GPU {self.gpu_points:g}",
            f"busy {BUSY_FACTOR:g}" if self.busy else "",
            f"model loaded {LOADED_FACTOR:g}" if self.loaded else "",
        ]
        return " × ".join(part for part in parts if part)


def rank(
    ask: Ask,
    donors: Donors | Iterable[tuple[Donor, Load]],
    now: datetime,
    draw: Draw,
    *,
    limit: int | None = None,
    among: Collection[str] | None = None,
) -> list[Choice]:
    """The donors that may start `ask` at `now` (aware), best first.

    `limit` gives the first so many of the full order; with a `Donors` index the rest is never looked at.
    `among` admits only these donor ids (Dask's own restrictions). Anything but an index is scanned.
    """
    candidates = _candidates(ask, donors, now, among)
    choices: list[Choice] = []
    for donor, load in candidates:
        if limit is not None and len(choices) >= limit:
            break
        rate = donor.limits.acceptance_rate
        lot = draw(donor.id) if rate < 1.0 else 0.0
        if lot < rate and decide(ask, donor, load, now, lot):
            choices.append(appraise(ask, donor, load))
    return choices


def _candidates(
    ask: Ask, donors: Donors | Iterable[tuple[Donor, Load]], now: datetime, among: Collection[str] | None
) -> Iterable[tuple[Donor, Load]]:
    """Donors in order of score, best first: all that may take `ask`, maybe some that may not."""
    if not isinstance(donors, Donors):
        return _sorted(ask, (pair for pair in donors if among is None or pair[0].id in among))
    if among is not None:
        return _sorted(ask, (donors.get(id_) for id_ in among if id_ in donors))
    return donors.candidates(ask, now)


def _sorted(ask: Ask, pairs: Iterable[tuple[Donor, Load]]) -> Iterator[tuple[Donor, Load]]:
    return iter(sorted(pairs, key=lambda pair: order(ask, *pair)))


def order(ask: Ask, donor: Donor, load: Load) -> tuple[float, float, float, str]:
    """Sorts donors for `ask`, best first: the score, then the tie break."""
    return (-appraise(ask, donor, load).score, *tie_break(donor))


def appraise(ask: Ask, donor: Donor, load: Load) -> Choice:
    """The score of `donor` for `ask` and its factors, whether or not the donor may take it."""
    near, busy, loaded = nearness(ask.region, donor.region), load.running > 0, ask.model in load.loaded
    total = score(merit(donor), factor(near, busy=busy, loaded=loaded))
    return Choice(donor.id, total, near, donor.reliability, gpu_points(donor), busy, loaded)


def explain(
    ask: Ask, donors: Iterable[tuple[Donor, Load]], now: datetime, draw: Draw
) -> list[tuple[Donor, Verdict, float | None]]:
    """Every donor with its verdict, and its score if it may take `ask`: best first, then the refused by id."""
    told: list[tuple[Donor, Verdict, float | None]] = []
    for donor, load in donors:
        verdict = decide(ask, donor, load, now, draw(donor.id))
        told.append((donor, verdict, appraise(ask, donor, load).score if verdict else None))
    return sorted(
        told, key=lambda row: (not row[1], -(row[2] or 0.0), *(tie_break(row[0]) if row[1] else (0, 0, row[0].id)))
    )

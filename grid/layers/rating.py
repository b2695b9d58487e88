"""How fast each donor is taken to be for one model, when each was measured in another way, or not at all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .speed import Source, Speed

PROMPT = 3.0
"""Tokens of prompts for each token of an answer, where nobody has counted."""
ALIKE = 1.5
"""Trials that differ by at most this factor tell nothing apart: a machine may be busy for a moment. Steps will tell."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A donor's speed for layers of one size."""

    layer_seconds: float
    """One token of a single sequence through one layer."""
    work_seconds: float
    """One token of an answer, with its share of a prompt, through one layer."""
    source: Source

    @property
    def rate(self) -> float:
        """Layers × tokens a second."""
        return 1.0 / self.work_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is known of one donor."""

    device: str
    """On which it would compute."""
    presumed: Speed
    speeds: Sequence[Speed] = ()
    """Measured by its stages, and by a trial."""


def rated(donors: Mapping[str, Told], dtype: str, layer_bytes: int) -> dict[str, Rated]:
    """All donors by one measure.

    What a stage's steps took is the truth. A trial knows the device, but not what a step costs besides; a name knows
    even less. So each is scaled by what the better measurements of other donors, on the same kind of device, came to in
    comparison: the median of the ratios. Trials that are nearly alike are made equal.
    """
    steps = _of(donors, dtype, layer_bytes, Source.MEASURED)
    trials = _evened(_of(donors, dtype, layer_bytes, Source.PROBED))
    names = {id_: _rate(one.presumed, one.presumed, layer_bytes) for id_, one in donors.items()}
    by_trial = {id_: trials[id_].scaled(factor) for id_, factor in _factors(donors, steps, trials).items()}
    known = {**by_trial, **steps}
    by_name = {id_: names[id_].scaled(factor) for id_, factor in _factors(donors, known, names).items()}
    return {
        id_: Rated(times.step, times.work, source)
        for source, found in ((Source.PRESUMED, by_name), (Source.PROBED, by_trial), (Source.MEASURED, steps))
        for id_, times in found.items()
    }


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of a layer."""

    step: float
    work: float

    def scaled(self, factor: float) -> _Times:
        return _Times(self.step * factor, self.work * factor)


def _of(donors: Mapping[str, Told], dtype: str, layer_bytes: int, source: Source) -> dict[str, _Times]:
    """What was measured so, by donor; a prompt's part from its trial where its steps don't tell it."""
    found: dict[str, _Times] = {}
    for id_, one in donors.items():
        speeds = [each for each in one.speeds if each.counts_for(one.device, dtype, layer_bytes)]
        best = next((each for each in speeds if each.source is source), None)
        if best is not None:
            computing = next((each for each in (best, *speeds) if each.compute_bytes_s), best)
            found[id_] = _rate(best, computing, layer_bytes)
    return found


def _rate(reading: Speed, computing: Speed, layer_bytes: int) -> _Times:
    step = reading.step_seconds(layer_bytes)
    return _Times(step, step + PROMPT * computing.token_seconds(layer_bytes))


def _factors(donors: Mapping[str, Told], better: Mapping[str, _Times], worse: Mapping[str, _Times]) -> dict[str, float]:
    """For each donor with a worse measurement: by how much such ones must be scaled, on its kind of device."""
    by_device: dict[str, float] = {}
    for device in {donors[id_].device for id_ in worse}:
        both = [id_ for id_ in better if id_ in worse and donors[id_].device == device]
        by_device[device] = statistics.median(better[id_].work / worse[id_].work for id_ in both) if both else 1.0
    return {id_: by_device[donors[id_].device] for id_ in worse}


def _evened(trials: Mapping[str, _Times]) -> dict[str, _Times]:
    """Those that lie within `ALIKE` of the quickest of their group get the group's mean."""
    evened: dict[str, _Times] = {}
    group: list[str] = []
    for id_ in sorted(trials, key=lambda id_: (trials[id_].work, id_)):
        if group and trials[id_].work > ALIKE * trials[group[0]].work:
            evened |= _alike(group, trials)
            group = []
        group.append(id_)
    return evened | (_alike(group, trials) if group else {})


def _alike(group: Iterable[str], trials: Mapping[str, _Times]) -> dict[str, _Times]:
    members = list(group)
    step, work = (_mean(getattr(trials[id_], name) for id_ in members) for name in ("step", "work"))
    return {id_: _Times(step, work) for id_ in members}


def _mean(values: Iterable[float]) -> float:
    """The geometric one."""
    return math.exp(statistics.fmean(map(math.log, values)))

"""The score of a donor for an ask: what the donor is worth to anybody, times what the ask makes of it."""

from __future__ import annotations

import math

from .donors import Donor

GPU_POINTS = 100.0
"""Points of a GPU with less than 12 GB."""
GPU_BONUS = ((24.0, 50.0), (12.0, 20.0))
"""(From this many GB, so many points more): the first that fits counts alone, so 24 GB give 150 points and not 170."""
CPU_POINTS = 10.0
"""Points of a donor without a GPU: any GPU goes first unless it is busy or the farthest away."""
BUSY_FACTOR = 0.1
"""A donor that runs something already and has a slot left."""
LOADED_FACTOR = 2.0
"""A donor that holds the model already: makes up for half the nearness, not for running something else (2 × 0.1)."""

_DIGITS = 6
"""Merits that differ only beyond these decimals are equal, so that ties are ties and not noise of floating point."""


def gpu_points(donor: Donor) -> float:
    """The points for the donor's GPU and its memory (of one GPU, not of all)."""
    if donor.gpu_memory_gb <= 0:
        return CPU_POINTS
    return GPU_POINTS + next((bonus for from_gb, bonus in GPU_BONUS if donor.gpu_memory_gb >= from_gb), 0.0)


def merit(donor: Donor) -> float:
    """The part of the score that is the same for every ask: reliability × GPU points, 0 to 150."""
    return round(donor.reliability * gpu_points(donor), _DIGITS)


def factor(nearness: float, *, busy: bool, loaded: bool) -> float:
    """What the ask and the moment make of a donor's merit, in (0, 2]."""
    return nearness * (BUSY_FACTOR if busy else 1.0) * (LOADED_FACTOR if loaded else 1.0)


def score(merit: float, factor: float) -> float:
    """The whole score. Keeps the order of merits: factors are at least 0.01, so these decimals tell any two apart."""
    return round(merit * factor, _DIGITS + 3)


def tie_break(donor: Donor) -> tuple[float, float, str]:
    """Which of two equal scores goes first, smaller first: lower average latency (unknown last), larger memory, id."""
    latency = math.inf if donor.avg_latency_ms is None else donor.avg_latency_ms
    return latency, -donor.gpu_memory_gb, donor.id

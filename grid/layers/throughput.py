"""What an assignment carries: each layer's tokens a second, and with it the whole model's, in closed form."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .capacity import Assignment, Capacity, LayerDonor

Rates = npt.NDArray[np.float64]

SPILL_COST = 0.05
"""What a token that crosses a border is worth less than one that stays in its region: waiting for far hops."""


def layer_rates(capacity: Capacity, donors: Iterable[LayerDonor], assignment: Assignment) -> Rates:
    """Tokens/s of all holders of each layer together, (layers,)."""
    rates = np.zeros(capacity.model.layers)
    for donor in donors:
        layers = assignment.get(donor.id)
        if layers is not None and donor.rate > 0:
            rates[layers.start : layers.end] += capacity.tokens_per_second(donor, layers)
    return rates


def throughput(capacity: Capacity, donors: Iterable[LayerDonor], assignment: Assignment) -> float:
    """Tokens/s through the whole model where borders don't limit: those of its weakest layer.

    That is the maximum flow, because a donor's layers are contiguous and may be entered at any of them. It can't be
    more: all tokens pass the weakest layer. And so many do pass, by any route: at each cut, those inside a donor's
    layers are all the donor has taken, so what its holders of the next layer have left is at least what arrives.
    """
    return float(layer_rates(capacity, donors, assignment).min())


def worth(capacity: Capacity, donors: Iterable[LayerDonor], assignment: Assignment) -> float:
    """Throughput in tokens/s, with what can only be carried over borders counted `SPILL_COST` lower."""
    regions: dict[str, list[LayerDonor]] = {}
    for donor in donors:
        regions.setdefault(donor.region, []).append(donor)
    rates = [layer_rates(capacity, members, assignment) for members in regions.values()]
    return weigh(rates) if rates else 0.0


def weigh(rates: Iterable[Rates]) -> float:
    """`worth` of the regions' layer rates, each (layers,)."""
    rows = list(rates)
    inside, total = sum(float(row.min()) for row in rows), float(np.sum(rows, axis=0).min())
    return total - SPILL_COST * (total - inside)

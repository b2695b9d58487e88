"""Small fleets of donors for the tests of layers: by hand, at random, and as a hypothesis strategy."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from idlegrid.grid.layers.capacity import Capacity, LayerDonor
from idlegrid.grid.layers.shape import LayerRange, ModelShape, Traffic

REGIONS = ("europe-west", "oceania", "asia-east")
NO_KV = Traffic(context_tokens=1.0, token_seconds=1e-9)
"""Keys and values limit nobody."""


def a_model(layers: int = 8, **sizes: float) -> ModelShape:
    """Layers of 10 bytes each, tokens of one byte."""
    return ModelShape(**{"layers": layers, "layer_bytes": 10, "kv_bytes": 1, "activation_bytes": 1, **sizes})


def a_donor(id_: str, room: int = 8, rate: float = 8.0, *, region: str = REGIONS[0], **facts: float) -> LayerDonor:
    """Room for so many inner layers of `a_model`, at one mean sequence of one token."""
    return LayerDonor(**{"id": id_, "region": region, "memory_bytes": 11 * room, "layer_rate": rate, **facts})


def a_fleet(choose: random.Random, size: int, layers: int, regions: int = 1) -> list[LayerDonor]:
    """Donors with room for one to all layers, and whole numbers as rates."""
    return [
        a_donor(
            f"d{number}",
            choose.randint(1, layers),
            float(choose.randint(1, 20)),
            region=REGIONS[choose.randrange(regions)],
        )
        for number in range(size)
    ]


def an_assignment(choose: random.Random, donors: list[LayerDonor], capacity: Capacity) -> dict[str, LayerRange]:
    """To each donor a range that fits it."""
    held = {}
    for one in donors:
        start = choose.randrange(capacity.model.layers)
        if most := capacity.longest(one, start):
            held[one.id] = LayerRange(start, start + choose.randint(1, most))
    return held


@st.composite
def fleets(draw: st.DrawFn, most: int = 5, layers: int = 6) -> tuple[Capacity, list[LayerDonor]]:
    """A model with heavy ends and up to `most` donors, of which some are too small for anything."""
    model = a_model(
        draw(st.integers(1, layers)),
        embed_bytes=draw(st.integers(0, 30)),
        head_bytes=draw(st.integers(0, 30)),
        tied=draw(st.booleans()),
        head_layers=draw(st.sampled_from([0.0, 0.5, 2.0])),
    )
    rooms = draw(st.lists(st.integers(0, 90), min_size=1, max_size=most))
    donors = [
        LayerDonor(
            id=f"d{number}",
            region=draw(st.sampled_from(REGIONS)),
            memory_bytes=room,
            layer_rate=float(draw(st.integers(0, 20))),
            up_bytes_s=draw(st.sampled_from([float("inf"), 3.0])),
        )
        for number, room in enumerate(rooms)
    ]
    traffic = Traffic(context_tokens=1.0, token_seconds=draw(st.sampled_from([1e-9, 0.5])))
    return Capacity(model, traffic), donors

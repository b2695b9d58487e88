"""Another cut on donors that hold stages: what loads beside what goes, and what a donor has when its stage goes."""

import pytest

from idlegrid.grid.layers.capacity import Capacity, LayerDonor
from idlegrid.grid.layers.shape import ModelShape, Traffic
from idlegrid.pipelines.llm.chain_plan import Cut, Offer, Part
from idlegrid.pipelines.llm.recut import Holding, holding, recut

GB = 10**9
SHAPE = ModelShape(
    layers=6, layer_bytes=GB // 100, kv_bytes=99 * 10**6, activation_bytes=8, embed_bytes=0, head_bytes=0
)
CAPACITY = Capacity(SHAPE, Traffic(context_tokens=10, token_seconds=1e-9))
"""A layer is 10 MB of weights, and 0.99 GB of pages."""


def part(donor, layers, memory):
    """`memory`: what the donor has when it holds nothing, in layers."""
    return Part(
        layers, Offer(LayerDonor(id=donor, region="asia-east", memory_bytes=memory * GB, layer_rate=1.0), donor)
    )


@pytest.mark.parametrize(
    ("free", "freed"),
    [
        (4.0, 0.03),  # nothing was written: its pages are free, and it will not have them twice
        (2.5, 1.5),  # half of them were
        (1.0, 3.0),  # all
        (0.2, 3.0),  # and others took some of what it had
        (4.5, 0.03),  # others left
    ],
)
def test_without_its_stage_a_donor_has_what_it_had_before_as_far_as_that_can_be(free, freed):
    """What is free now, and pages as they were promised, would be too much or too little."""
    its = holding(CAPACITY, range(3), offered=4 * GB)
    assert its == Holding(4 * GB, 3 * GB // 100, 3 * GB)
    assert its.freed(int(free * GB)) == pytest.approx(freed * GB)


def test_what_stays_is_not_loaded_again():
    held = [part("a", range(3), 9), part("b", range(3, 6), 9)]
    found = recut(CAPACITY, held, Cut((held[0], part("c", range(3, 6), 9)), "faster"))
    assert [(one.offer.donor.id, one.layers) for one in found.loads] == [("c", range(3, 6))]
    assert (found.kept, found.gone) == ((held[0],), (held[1],))
    assert (found.why, found.short) == ("faster", "")


@pytest.mark.parametrize(("memory", "short"), [(7, ""), (6, "a has 1.00 GB too little")])
def test_a_donor_holds_its_present_layers_and_the_new_ones_where_it_has_memory_for_both(memory, short):
    held = [part("a", range(3), memory), part("b", range(3, 6), 9)]
    found = recut(CAPACITY, held, Cut((part("a", range(4), memory), part("b", range(4, 6), 9))))
    assert len(found.loads) == len(found.gone) == 2
    assert found.short.startswith(short)
    assert bool(found.short) == bool(short)


def test_control_who_holds_nothing_has_room():
    held = [part("a", range(6), 6)]
    assert not recut(CAPACITY, held, Cut((part("b", range(6), 6),))).short

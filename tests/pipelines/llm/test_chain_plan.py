"""Who gets which layers of one chain: as few as it takes, as many as are wanted, or the ranges that were given."""

import random
from dataclasses import replace
from itertools import combinations, permutations

import pytest

from idlegrid.grid.layers.capacity import Capacity, LayerDonor
from idlegrid.grid.layers.near import Near
from idlegrid.grid.layers.presumed import presumed_gb_s
from idlegrid.grid.layers.replanning import Hysteresis
from idlegrid.grid.layers.shape import ModelShape, Traffic
from idlegrid.grid.layers.speed import Source, Speed
from idlegrid.pipelines.llm.chain_plan import Offer, Part, Split, better, cut, rate, token_seconds
from idlegrid.pipelines.llm.deployment import Deployment
from idlegrid.pipelines.llm.donor_facts import UNLIMITED, Needs, facts_of, offer_of
from idlegrid.pipelines.llm.model_shape import NoShape, configuration, local_layers, sizes_of
from idlegrid.pipelines.llm.staging import holes

SHAPE = ModelShape(layers=8, layer_bytes=100, kv_bytes=1, activation_bytes=8, embed_bytes=50, head_bytes=50)
CAPACITY = Capacity(SHAPE, Traffic(context_tokens=10, token_seconds=1e-9))
ANY = Split()


def offer(id_, layers=8, rate=100.0, region="asia-east", score=1.0):
    """With room for so many inner layers, and both ends."""
    donor = LayerDonor(id=id_, region=region, memory_bytes=layers * 110 + 100, layer_rate=rate)
    return Offer(donor, f"tcp://{id_}", score)


def parts(found):
    return [(one.offer.donor.id, one.layers.start, one.layers.stop) for one in found.parts]


def test_as_few_donors_as_it_takes():
    assert parts(cut(CAPACITY, [offer("a", 3), offer("b"), offer("c", 5)], ANY)) == [("b", 0, 8)]
    assert len(parts(cut(CAPACITY, [offer("a", 3), offer("b", 4), offer("c", 5)], ANY))) == 2


def test_one_region_first_even_if_another_has_better_donors_together_with_the_rest():
    far = [offer(id_, 4, region="europe-west") for id_ in "xy"]
    assert {id_ for id_, *_ in parts(cut(CAPACITY, [offer("a", 4, score=9), *far], ANY))} == {"x", "y"}
    spilled = parts(cut(CAPACITY, [offer("a", 4), far[0]], ANY))
    assert {id_ for id_, *_ in spilled} == {"a", "x"}


def test_so_many_stages_go_to_the_best_donors_by_their_speed():
    found = cut(CAPACITY, [offer("a", score=3), offer("b", score=2, rate=300.0), offer("c")], Split(2))
    assert parts(found) == [("a", 0, 2), ("b", 2, 8)]
    assert parts(cut(CAPACITY, [offer("a", 3, score=3), offer("b", 3, score=2), offer("c", 6)], Split(2)))


def test_why_there_are_not_so_many_stages():
    assert cut(CAPACITY, [offer("a")], Split(9)).why == "9 stages are wanted, but the model has 8 layers"
    few = cut(CAPACITY, [offer("a", 3)], Split(2)).why
    assert few.startswith("2 stages are wanted, each on a donor of its own, and 1 may take one now; layers ")
    assert "of free donor memory more would suffice" in few


def test_ranges_that_were_given_go_to_donors_that_hold_them():
    offers = [offer("small", 2, score=9), offer("large", 6)]
    given = Split(layers=((0, 2), (2, 8)))
    assert parts(cut(CAPACITY, offers, given)) == [("small", 0, 2), ("large", 2, 8)]
    missing = cut(CAPACITY, offers[:1], given).why
    assert missing.startswith("layers 2-7 of 0-7 have no holder; ")
    short = cut(CAPACITY, offers, Split(layers=((0, 2), (2, 6)))).why
    assert short == "the ranges end at layer 5, but the model has layers 0 to 7"


def test_a_gap_is_filled_by_one_if_one_can_and_its_ends_cost_nothing_inside_the_model():
    snug = offer("a", 3)
    snug = replace(snug, donor=replace(snug.donor, memory_bytes=330))
    assert parts(cut(CAPACITY, [snug], Split(4), range(2, 5))) == [("a", 2, 5)]
    assert parts(cut(CAPACITY, [offer("a", 2), offer("b", 1)], Split(4), range(2, 5)))
    none = cut(CAPACITY, [snug], ANY, range(5, 8))
    assert not none
    assert none.why.startswith("layer 7 of 0-7 has no holder; ")


def far(**pairs):
    """Milliseconds between donors, as ``ab=20``."""
    return Near(pairs={tuple(sorted(pair)): ms / 1000 for pair, ms in pairs.items()})


def test_neighbours_in_a_chain_are_near_each_other():
    """Round a, c, b, d a token spends 21 ms between them; in the order of their scores it would be 40."""
    offers = [offer(id_, 2, score=4.0 - place) for place, id_ in enumerate("abcd")]
    net = far(ab=20, bc=20, cd=20, ad=20, ac=1, bd=1)
    found = cut(CAPACITY, offers, Split(4), near=net)
    assert found.parts[0].offer.donor.id == "a"
    assert token_seconds(CAPACITY, found.parts, net) == pytest.approx(8 / 100 + 0.021)


def test_donors_that_are_near_come_before_better_ones_if_that_pays():
    offers = [offer("best", rate=130.0, score=9), offer("good", rate=130.0, score=8), offer("near"), offer("by")]
    apart = dict.fromkeys(("best good", "best near", "best by", "good near", "good by"), 300)
    net = Near(pairs={tuple(sorted(pair.split())): ms / 1000 for pair, ms in (apart | {"near by": 2}).items()})
    assert {id_ for id_, *_ in parts(cut(CAPACITY, offers, Split(2), near=net))} == {"near", "by"}
    assert {id_ for id_, *_ in parts(cut(CAPACITY, offers, Split(2)))} == {"best", "good"}
    crawling = [*offers[:2], offer("near", rate=10.0), offer("by", rate=10.0)]
    assert {id_ for id_, *_ in parts(cut(CAPACITY, crawling, Split(2), near=net))} == {"best", "good"}


def test_a_gap_is_filled_near_the_rest_of_the_chain():
    offers = [offer("best", rate=110.0, score=9), offer("near")]
    rest = [offer("left").donor, offer("right").donor]
    net = Near(pairs={("best", "left"): 0.3, ("best", "right"): 0.3, ("left", "near"): 0.01, ("near", "right"): 0.01})
    assert parts(cut(CAPACITY, offers, ANY, range(2, 5), near=net, beside=rest)) == [("near", 2, 5)]
    assert parts(cut(CAPACITY, offers, ANY, range(2, 5), near=net)) == [("best", 2, 5)]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_order_of_the_same_donors_is_nearer(seed):
    choose = random.Random(seed)
    ids = "abcdef"[: choose.randint(2, 6)]
    offers = [offer(id_, 8, float(choose.randint(50, 100)), score=choose.random()) for id_ in ids]
    net = Near(pairs={pair: choose.random() for pair in combinations(ids, 2)})
    found = [one.offer.donor for one in cut(CAPACITY, offers, Split(len(ids)), near=net).parts]
    assert net.ring_s(found) == pytest.approx(min(map(net.ring_s, permutations(found))))


def test_speeds_that_were_not_all_measured_by_steps_must_differ_more():
    held = [Part(range(4), offer("a", rate=100.0)), Part(range(4, 8), offer("b", rate=100.0))]
    other = replace(offer("c", rate=125.0), source=Source.MEASURED)
    spare = replace(offer("d", rate=125.0), source=Source.MEASURED)
    offers = [replace(other, score=3.0), replace(spare, score=2.0)]
    assert "less than 50% more" in better(CAPACITY, offers, Split(2), held, Hysteresis()).why
    measured = [replace(one, offer=replace(one.offer, source=Source.MEASURED)) for one in held]
    assert better(CAPACITY, offers, Split(2), measured, Hysteresis())


def test_another_cut_must_gain_enough():
    held = [Part(range(4), offer("a", rate=50.0)), Part(range(4, 8), offer("b", rate=100.0))]
    own = [one.offer for one in held]
    fresh = better(CAPACITY, [*own, offer("c", rate=100.0, score=2.0)], Split(2), held, Hysteresis())
    assert rate(CAPACITY, fresh.parts) > 1.15 * rate(CAPACITY, held)
    calm = better(CAPACITY, own, Split(2), list(cut(CAPACITY, own, Split(2)).parts), Hysteresis())
    assert not calm
    assert "less than 15% more" in calm.why


def test_what_a_donor_brings():
    row = {
        "id": "a", "region": "oceania", "address": "tcp://a", "score": 0.75, "gpu_model": "NVIDIA GeForce RTX 4090",
        "gpu_memory_free_gb": 20.0, "memory_gb": 8.0, "memory_used_gb": 3.0, "threads": 4, "pace": 1.0,
        "running": 1,
    }  # fmt: skip
    on_gpu = offer_of(row, Needs(10**9, "cuda")).donor
    assert (on_gpu.memory_bytes, on_gpu.layer_rate, on_gpu.reliability) == (20 * 10**9, 1008.0, 0.75)
    own = offer_of(row, Needs(10**9), held=10**9)
    assert (own.donor.memory_bytes, own.score) == (55 * 10**8, 0.75 * 20.0), "its own stage makes nobody busy"
    on_cpu = offer_of(row, Needs(10**9)).donor
    assert (on_cpu.memory_bytes, on_cpu.layer_rate) == (45 * 10**8, 20.0)
    assert offer_of(row, Needs(10**9, region="oceania")).score == pytest.approx(0.1 * 0.75 * 20.0)
    assert offer_of(row, Needs(10**9, region="asia-east")).score < 0.1 * 0.75 * 20.0
    assert offer_of({**row, "memory_gb": None}, Needs(1)).donor.memory_bytes == UNLIMITED


def test_what_was_measured_of_donors_and_what_lies_between_them():
    plain = {
        "region": "oceania", "score": 1.0, "gpu_model": None, "gpu_memory_free_gb": None, "memory_gb": None,
        "threads": 1, "pace": 1.0, "running": 0,
    }  # fmt: skip
    slow = Speed(device="cpu", dtype="float32", source=Source.PROBED, read_bytes_s=1e9)
    rows = {
        "new": plain | {"id": "new", "address": "tcp://new"},
        "slow": plain | {"id": "slow", "address": "tcp://slow", "speeds": [slow.to_wire()], "links": {"new": 0.04}},
    }
    known = facts_of(rows, ["new", "slow"], Needs(10**9))
    rates = {one.donor.id: (one.donor.rate, one.source) for one in known.offers}
    assert rates == {
        "new": (pytest.approx(1.0), Source.PRESUMED),
        "slow": (pytest.approx(1.0), Source.PROBED),
    }, "nobody is presumed to be quicker than those that look the same were found to be"
    quick = Speed(device="cpu", dtype="float32", source=Source.PROBED, read_bytes_s=4e9)
    found = known.with_speeds({"new": quick})
    assert {one.donor.id: one.donor.rate for one in found.offers} == {"new": 4.0, "slow": 1.0}
    new, old = found.donors({"new", "slow", "gone"})
    assert found.near.round_trip_s(new, old) == 0.04
    other = found.needing(Needs(10**9, dtype="bfloat16"))
    assert {one.source for one in other.offers} == {Source.PRESUMED}


def test_the_speed_that_is_presumed():
    assert presumed_gb_s("NVIDIA H100 80GB HBM3", 8) == 3350.0
    assert presumed_gb_s("some card", 8) == 400.0
    assert presumed_gb_s(None, 0) == 5.0


def test_a_models_sizes_are_those_that_its_stages_load():
    from idlegrid.actors.llm.weights import Checkpoint
    from idlegrid.actors.models import resolve

    sizes = sizes_of(Deployment(model="idlegrid-tiny", stages=2, dtype="bfloat16"), configuration("idlegrid-tiny"))
    names = [name for name in Checkpoint.open(resolve("idlegrid-tiny")).files if name.startswith("model.layers.0.")]
    tensors = Checkpoint.open(resolve("idlegrid-tiny")).load(names)
    loaded = sum(tensor.nbytes for tensor in tensors.values())
    assert sizes.capacity.model.layer_bytes == pytest.approx(loaded, rel=0.001)  # but for the norms of heads
    assert (sizes.num_layers, sizes.dtype, local_layers("idlegrid-tiny")) == (6, "bfloat16", 6)
    assert sizes.num_blocks == 64 * 1024 // 16
    assert local_layers("nobody/has-this") is None


def test_a_configuration_without_sizes_is_refused():
    with pytest.raises(NoShape, match="doesn't tell its sizes: KeyError"):
        sizes_of(Deployment(model="m", stages=2), {"num_hidden_layers": 3})
    with pytest.raises(NoShape, match="dtype must be auto or one of"):
        sizes_of(Deployment(model="m", stages=2, dtype="int3"), {})


class Held:
    def __init__(self, *layers):
        self.layers = range(*layers)


def test_holes():
    assert holes(range(8), []) == [range(8)]
    assert holes(range(8), [Held(4, 6), Held(0, 2)]) == [range(2, 4), range(6, 8)]
    assert holes(range(2, 4), [Held(2, 4)]) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"stages": -1}, r"stages must be 0 \(as many as it takes\) or more, not -1"),
        ({"layers": ()}, "layers must name at least one range"),
        ({"layers": ((0, 4), (5, 8))}, "layers 5 to 7 must begin at 4"),
        ({"layers": ((0, 0),)}, "the range from layer 0 must end after it"),
        ({"layers": ((0, 8),), "stages": 2}, "1 ranges of layers are given, but stages is 2"),
        ({"stages": 2, "engine": "vllm"}, "only the torch engine can be split into stages, not 'vllm'"),
    ],
)
def test_what_cannot_be_wanted(wrong, told):
    with pytest.raises(ValueError, match=told):
        Deployment(model="m", **wrong)

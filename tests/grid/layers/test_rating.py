"""Donors that were measured in different ways, by one measure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.layers.rating import ALIKE, PROMPT, Told, rated
from idlegrid.grid.layers.speed import Source, Speed

LAYER = 10**9
speeds = st.floats(1e8, 1e13)


def speed(source, read, compute=0.0, device="cpu", dtype="float32", layer_bytes=0):
    return Speed(
        device=device, dtype=dtype, source=source, read_bytes_s=read, compute_bytes_s=compute, layer_bytes=layer_bytes
    )


def told(presumed=1e9, *, steps=None, trial=None, device="cpu"):
    found = []
    if steps:
        found.append(speed(Source.MEASURED, steps, device=device, layer_bytes=LAYER))
    if trial:
        found.append(speed(Source.PROBED, trial, device=device))
    return Told(device=device, presumed=speed(Source.PRESUMED, presumed, device=device, dtype=""), speeds=found)


def rates(donors):
    return {id_: (one.rate, one.source) for id_, one in rated(donors, "float32", LAYER).items()}


def test_steps_before_a_trial_before_a_name():
    found = rates({"steps": told(steps=2e9, trial=4e9), "trial": told(trial=8e9), "name": told(3e9)})
    assert found["steps"] == (pytest.approx(2.0), Source.MEASURED)
    assert found["trial"] == (pytest.approx(4.0), Source.PROBED), "steps take twice what trials promise"
    assert found["name"][1] is Source.PRESUMED
    assert found["name"][0] == pytest.approx(8.0), (
        "the others take a half and a quarter of what their names say: three eighths"
    )


def test_only_what_was_measured_there_and_so_counts():
    other = told(7e9)
    elsewhere = (
        speed(Source.PROBED, 1e9, device="cuda"),
        speed(Source.PROBED, 1e9, dtype="bfloat16"),
        speed(Source.MEASURED, 1e9, layer_bytes=LAYER + 1),
    )
    donors = {"a": Told(device="cpu", presumed=other.presumed, speeds=elsewhere)}
    assert rates(donors) == {"a": (pytest.approx(7.0), Source.PRESUMED)}
    mixed = rates({"slow": told(1e9, steps=1e9, trial=1e12), "gpu": told(1e12, trial=1e12, device="cuda")})
    assert mixed["gpu"][0] == pytest.approx(1000.0), "what a CPU's steps cost says nothing of a GPU"


def test_prompts_count_and_come_from_the_trial_where_steps_do_not_tell():
    trial = speed(Source.PROBED, 1e9, 1e10)
    steps = speed(Source.MEASURED, 2e9, layer_bytes=LAYER)
    one = Told(device="cpu", presumed=told().presumed, speeds=(trial, steps))
    found = rated({"a": one}, "float32", LAYER)["a"]
    assert found.layer_seconds == pytest.approx(0.5)
    assert found.work_seconds == pytest.approx(0.5 + PROMPT * 0.1)


def test_trials_that_are_nearly_alike_are_alike():
    found = rates({"a": told(trial=10e9), "b": told(trial=8.5e9), "c": told(trial=4e9)})
    assert found["a"][0] == found["b"][0] == pytest.approx((10 * 8.5) ** 0.5)
    assert found["c"][0] == pytest.approx(4.0)


@given(st.lists(st.tuples(speeds, st.booleans(), st.booleans()), min_size=1, max_size=12), st.floats(0.01, 100))
def test_where_better_measurements_are_in_proportion_all_are_right(donors, factor):
    """Names that are off by one factor, trials by another: one donor that has all three puts everybody right."""
    given_ = {
        f"d{number}": told(true * factor, steps=true if tried and served else None, trial=3 * true if tried else None)
        for number, (true, tried, served) in enumerate(donors)
    }
    given_["sure"] = told(1e9 * factor, steps=1e9, trial=3e9)
    found = rated(given_, "float32", LAYER)
    for number, (true, _, _) in enumerate(donors):
        ratio = found[f"d{number}"].rate / (true / LAYER)
        assert 0.999 / ALIKE <= ratio <= 1.001 * ALIKE


@given(st.dictionaries(st.text(min_size=1), st.tuples(speeds, st.none() | speeds, st.none() | speeds), min_size=1))
def test_everybody_is_rated_and_trials_keep_their_order(donors):
    given_ = {id_: told(name, trial=trial, steps=steps) for id_, (name, trial, steps) in donors.items()}
    found = rated(given_, "float32", LAYER)
    assert found.keys() == donors.keys()
    assert all(0 < one.rate < float("inf") for one in found.values())
    tried = [(trial, found[id_].rate) for id_, (_, trial, steps) in donors.items() if trial and not steps]
    for (trial, rate), (other, other_rate) in zip(sorted(tried), sorted(tried)[1:], strict=False):
        assert trial == other or rate <= other_rate * (1 + 1e-9)

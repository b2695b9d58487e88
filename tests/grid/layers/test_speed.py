"""What is learned of a donor's speed from its steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.layers.speed import FEW, MANY, Smoothed, Source, Speed, Steady, StepTimes

AT_ONCE = Steady(warm=0, steps=1, span=0.0)
LAYER = 10**6
seconds = st.floats(1e-6, 10.0)


def told(times, now=0.0, steady=AT_ONCE):
    return times.speed("cpu", "float32", LAYER, now, steady)


def a_speed(**other):
    return Speed(**{"device": "cpu", "dtype": "float32", "source": Source.PROBED, "read_bytes_s": 1e9, **other})


@given(st.lists(seconds, min_size=1, max_size=200))
def test_a_mean_stays_among_its_samples(samples):
    mean = Smoothed()
    for one in samples:
        mean = mean.after(one)
    assert min(samples) * (1 - 1e-9) <= mean.value <= max(samples) * (1 + 1e-9)
    assert mean.count == len(samples)


@given(seconds, st.floats(1.0, 1e6))
def test_one_outlier_changes_little_and_what_lasts_is_followed(usual, factor):
    mean = Smoothed()
    for _ in range(100):
        mean = mean.after(usual)
    assert mean.after(usual * factor).value <= usual * (1 + 2.1 * Smoothed.WEIGHT)
    slower = 10.0 * usual
    for _ in range(400):
        mean = mean.after(slower)
    assert mean.value == pytest.approx(slower, rel=0.05)


@given(st.integers(1, 80), st.floats(1e-5, 1.0), st.lists(st.integers(1, FEW), min_size=1, max_size=30))
def test_steps_of_few_tokens_tell_what_reading_a_layer_takes(layers, a_layer, sizes):
    """However many layers a stage has: where reading is all that counts, the same comes of it."""
    times = StepTimes(layers=layers)
    for number, tokens in enumerate(sizes):
        times = times.after(tokens, 0, layers * a_layer, float(number), AT_ONCE)
    assert told(times).step_seconds(LAYER) == pytest.approx(a_layer)
    assert told(times).compute_bytes_s == 0.0


def test_a_prompt_tells_what_computing_takes_and_a_batch_then_counts_as_one():
    times = StepTimes(layers=4, head_layers=2.0)
    times = times.after(MANY, 1, (4 * MANY + 2) * 0.001, 0.0, AT_ONCE)
    times = times.after(5, 5, 6 * (0.010 + 4 * 0.001), 1.0, AT_ONCE)
    assert told(times).token_seconds(LAYER) == pytest.approx(0.001)
    assert told(times).step_seconds(LAYER) == pytest.approx(0.010)
    assert times.after((FEW + MANY) // 2, 0, 99.0, 2.0, AT_ONCE).step == times.step, "neither the one nor the other"


def test_too_little_was_seen_or_too_long_ago():
    steady = Steady(warm=3, steps=10, span=30.0, stale=100.0)
    times = StepTimes(layers=1)
    for number in range(3):
        times = times.after(1, 0, 5.0, float(number), steady)
    assert times.step.count == 0, "the first steps warm up"
    for number in range(12):
        assert told(times, 3.0 + number, steady) is None
        times = times.after(1, 0, 0.5, 3.0 + number, steady)
    assert told(times, 15.0, steady) is None, "enough steps, in too short a time"
    times = times.after(1, 0, 0.5, 40.0, steady)
    assert told(times, 40.0, steady).step_seconds(LAYER) == pytest.approx(0.5)
    assert told(times, 139.0, steady) is not None
    assert told(times, 141.0, steady) is None


def test_what_a_speed_counts_for_and_when_it_is_told_anew():
    any_layers, these = a_speed(), a_speed(layer_bytes=7)
    assert any_layers.counts_for("cpu", "float32", 99)
    assert these.counts_for("cpu", "float32", 7)
    assert not these.counts_for("cpu", "float32", 8)
    assert not any_layers.counts_for("cuda", "float32", 99)
    assert not any_layers.counts_for("cpu", "bfloat16", 99)
    assert any_layers.near(a_speed(read_bytes_s=1.05e9))
    assert not any_layers.near(a_speed(read_bytes_s=1.2e9))
    assert not any_layers.near(these)
    assert not any_layers.near(a_speed(compute_bytes_s=1.0))


def test_a_speed_survives_the_wire_and_nonsense_does_not():
    speed = a_speed(read_bytes_s=1.23e9, compute_bytes_s=4.0, layer_bytes=3)
    assert Speed.from_wire(speed.to_wire() | {"newer": 1}) == speed
    for nonsense in ({"read_bytes_s": 0}, {"read_bytes_s": "inf"}, {"source": "heard"}, {"compute_bytes_s": -1}):
        with pytest.raises(ValueError):
            Speed.from_wire(speed.to_wire() | nonsense)

"""When a machine stops working for others, and when it begins again: laws that hold for any signal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.donor_guard import (
    PROGRAM_REST,
    SHORTEST_REST,
    Act,
    GpuProgram,
    GuardState,
    GuardVerdict,
    PauseReason,
    Readings,
    judge,
)
from idlegrid.grid.donors import Limits

ALL = Limits(
    only_when_idle_minutes=5,
    pause_on_battery=True,
    max_gpu_temperature=80,
    pause_for_other_gpu_programs=True,
    max_gpu_memory_percent=90,
)
GAME = GpuProgram(7, "game", 3.0, computes=False)
QUIET = Readings(on_battery=False, idle_seconds=9999, gpu_temperature=40, gpu_memory_gb=10, programs=())
STRICTNESS = {Act.WORK: 0, Act.HOLD: 1, Act.FREE: 2}


def run(moments, limits=ALL, **how):
    """The verdicts to readings at instants, one after the other."""
    state, verdicts = GuardState(), []
    for now, readings in moments:
        state, verdict = judge(state, readings, limits, now, **how)
        verdicts.append(verdict)
    return verdicts


def test_a_quiet_machine_works_and_one_that_tells_nothing_does_too():
    assert run([(0, QUIET), (1, Readings())]) == [GuardVerdict(), GuardVerdict()]


@pytest.mark.parametrize(
    ("reading", "act", "reason", "word"),
    [
        ({"on_battery": True}, Act.FREE, PauseReason.BATTERY, "battery"),
        ({"idle_seconds": 10}, Act.FREE, PauseReason.IN_USE, "5 idle minutes"),
        ({"programs": (GAME,)}, Act.FREE, PauseReason.PROGRAM, "game (3.0 GB)"),
        ({"programs": (GpuProgram(1, "train", None, True),)}, Act.FREE, PauseReason.PROGRAM, "train"),
        ({"gpu_temperature": 80}, Act.HOLD, PauseReason.HEAT, "80 °C"),
        ({"gpu_temperature": 85}, Act.FREE, PauseReason.HEAT, "85 °C"),
    ],
)
def test_each_limit_stops_it_at_once_with_its_reason_and_only_if_it_is_set(reading, act, reason, word):
    [verdict] = run([(0, replace(QUIET, **reading))])
    assert (verdict.act, verdict.reason) == (act, reason)
    assert word in verdict.detail
    assert verdict.free_now is (act is Act.FREE)
    assert run([(0, replace(QUIET, **reading))], Limits()) == [GuardVerdict()]


def test_memory_that_others_hold_leaves_none_for_us():
    limits = replace(ALL, pause_for_other_gpu_programs=False)
    full = replace(QUIET, programs=(GpuProgram(7, "train", 9.5, True),))
    [verdict] = run([(0, full)], limits)
    assert (verdict.act, verdict.reason) == (Act.HOLD, PauseReason.MEMORY)


def test_a_window_manager_is_no_program_that_needs_the_gpu():
    assert run([(0, replace(QUIET, programs=(GpuProgram(1, "Xorg", 0.2, computes=False),)))]) == [GuardVerdict()]


def test_its_owner_needs_no_patience():
    assert run([(0, QUIET)], paused=True)[0].reason is PauseReason.OWNER
    state, _ = judge(GuardState(), QUIET, ALL, 0, paused=True)
    assert judge(state, QUIET, ALL, 0)[1]


def test_it_resumes_when_the_reading_was_well_on_the_other_side_for_long_enough():
    hot, warm, cool = (replace(QUIET, gpu_temperature=celsius) for celsius in (81, 75, 69))
    verdicts = run([(0, hot), (5, warm), (100, warm), (101, cool), (105, warm), (106, cool), (115, cool), (116, cool)])
    assert [bool(one) for one in verdicts] == [False] * 7 + [True]
    assert "81 °C" in verdicts[0].detail


def test_the_reason_stays_told_after_the_program_has_gone():
    [_, after, back] = run([(0, replace(QUIET, programs=(GAME,))), (1, QUIET), (2 + PROGRAM_REST, QUIET)])
    assert (after.reason, after.detail) == (PauseReason.PROGRAM, "game (3.0 GB) uses the GPU")
    assert back


def test_a_limit_that_is_taken_away_holds_no_longer():
    state, verdict = judge(GuardState(), replace(QUIET, on_battery=True), ALL, 0)
    assert not verdict
    assert judge(state, replace(QUIET, on_battery=True), replace(ALL, pause_on_battery=False), 0.1)[1]


numbers = st.one_of(st.none(), st.floats(0, 700))
programs = st.lists(
    st.builds(GpuProgram, st.integers(1, 3), st.just("p"), st.one_of(st.none(), st.floats(0, 9)), st.booleans()),
    max_size=2,
)
readings = st.builds(
    Readings,
    on_battery=st.one_of(st.none(), st.booleans()),
    idle_seconds=numbers,
    gpu_temperature=st.one_of(st.none(), st.floats(60, 90)),
    gpu_memory_gb=st.just(10.0),
    programs=st.one_of(st.none(), programs.map(tuple)),
)
signals = st.lists(st.tuples(st.floats(0.05, 20), readings), min_size=1, max_size=120)


def timed(signal):
    now, moments = 0.0, []
    for step, reading in signal:
        now += step
        moments.append((now, reading))
    return moments


trembling = st.lists(
    st.tuples(
        st.floats(0.05, 0.5),
        st.sampled_from([QUIET, replace(QUIET, on_battery=True), replace(QUIET, gpu_temperature=80)]),
    ),
    min_size=20,
    max_size=120,
)


@given(st.one_of(signals, trembling))
def test_however_a_signal_trembles_work_resumes_at_most_once_in_the_shortest_rest(signal):
    moments = timed(signal)
    verdicts = run(moments)
    resumed = sum(bool(now) and not before for before, now in pairwise(verdicts))
    assert resumed <= moments[-1][0] / SHORTEST_REST


@given(signals)
def test_after_a_limit_was_crossed_it_rests(signal):
    moments = timed(signal)
    crossed = -1e9
    for (now, reading), verdict in zip(moments, run(moments), strict=True):
        if not run([(now, reading)])[0]:
            crossed = now
        assert not verdict or now - crossed >= SHORTEST_REST


@given(signals)
def test_what_crosses_a_limit_by_itself_stops_it_whatever_was_before(signal):
    moments = timed(signal)
    for (now, reading), verdict in zip(moments, run(moments), strict=True):
        alone = run([(now, reading)])[0]
        assert STRICTNESS[verdict.act] >= STRICTNESS[alone.act]


def worse(reading, draw):
    """The same machine, in no respect freer."""
    idle, heat = reading.idle_seconds, reading.gpu_temperature
    return replace(
        reading,
        on_battery=True if draw(st.booleans()) else reading.on_battery,
        idle_seconds=draw(st.floats(0, 700)) if idle is None else idle * draw(st.floats(0, 1)),
        gpu_temperature=draw(st.floats(60, 95)) if heat is None else heat + draw(st.floats(0, 10)),
        programs=(*(reading.programs or ()), *draw(programs)),
    )


@given(signals, st.data())
def test_a_machine_that_is_less_free_throughout_never_works_when_the_other_does_not(signal, data):
    moments = timed(signal)
    better = run(moments)
    poorer = run([(now, worse(reading, data.draw)) for now, reading in moments])
    for one, other in zip(better, poorer, strict=True):
        assert STRICTNESS[other.act] >= STRICTNESS[one.act]


@given(signals)
def test_every_stop_says_why(signal):
    assert all(verdict.act is Act.WORK or (verdict.reason and verdict.detail) for verdict in run(timed(signal)))

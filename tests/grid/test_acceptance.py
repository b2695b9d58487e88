"""Every limit of an owner, at its edges."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idlegrid.grid.acceptance import (
    admits,
    closes_at,
    decide,
    free_memory_gb,
    moment_of,
    room,
    standing,
)
from idlegrid.grid.donors import IDLE, Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.verdicts import ACCEPTED, Reason, Verdict

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
ASK = Ask(type="embedding")
DONOR = Donor(id="d", region="europe-west", gpu_memory_gb=24.0, supported_types=frozenset({"embedding"}))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def hours(start: int, end: int, zone: str = "UTC", **rest: object) -> Limits:
    return Limits(working_hours_start=start, working_hours_end=end, time_zone=zone, **rest)


def reason(ask=ASK, donor=DONOR, load=IDLE, now=NOW, draw=0.0) -> Reason:
    verdict = decide(ask, donor, load, now, draw)
    assert bool(verdict) == (verdict.reason is Reason.ACCEPTED)
    assert verdict or verdict.detail
    return verdict.reason


def test_an_idle_donor_without_limits_takes_what_it_can_run():
    assert decide(ASK, DONOR, IDLE, NOW, 0.999) is ACCEPTED


@pytest.mark.parametrize(
    ("expected", "ask", "donor", "load", "draw"),
    [
        (Reason.TYPE_NOT_SUPPORTED, {"type": "llm"}, {}, {}, 0),
        (Reason.MODEL_NOT_SUPPORTED, {"model": "b"}, {"models": frozenset({"a"})}, {}, 0),
        (Reason.ACCEPTED, {"model": "a"}, {"models": frozenset({"a"})}, {}, 0),
        (Reason.ACCEPTED, {"model": None}, {"models": frozenset({"a"})}, {}, 0),
        (Reason.EXCLUDED, {"excluded": frozenset({"d"})}, {}, {}, 0),
        (Reason.WRONG_REGION, {"region": "oceania", "allow_cross_region": False}, {}, {}, 0),
        (Reason.ACCEPTED, {"region": "europe-west", "allow_cross_region": False}, {}, {}, 0),
        (Reason.ACCEPTED, {"region": "oceania"}, {}, {}, 0),
        (Reason.ACCEPTED, {"allow_cross_region": False}, {}, {}, 0),
        (Reason.DRAINING, {}, {}, {"draining": True, "paused": True}, 0),
        (Reason.PAUSED, {}, {}, {"paused": True}, 0),
        (Reason.CONCURRENCY, {}, {}, {"running": 1}, 0),
        (Reason.ACCEPTED, {}, {"limits": Limits(max_concurrent_jobs=2)}, {"running": 1}, 0),
        (Reason.CONCURRENCY, {}, {"limits": Limits(max_concurrent_jobs=2)}, {"running": 2}, 0),
        (Reason.GPU_MEMORY, {"gpu_memory_gb": 21.7}, {}, {}, 0),
        (Reason.ACCEPTED, {"gpu_memory_gb": 21.6}, {}, {}, 0),
        (Reason.GPU_MEMORY, {"gpu_memory_gb": 5}, {}, {"gpu_memory_used_gb": 17}, 0),
        (Reason.ACCEPTED, {}, {}, {"gpu_memory_used_gb": 24}, 0),
        (Reason.ACCEPTED, {"gpu_memory_gb": 5}, {"gpu_memory_gb": 0.0}, {}, 0),
        (Reason.ACCEPTED, {"gpu_memory_gb": 20, "model": "a"}, {}, {"gpu_memory_used_gb": 20, "loaded": {"a"}}, 0),
        (Reason.ACCEPTED, {}, {"limits": Limits(acceptance_rate=0.5)}, {}, 0.49),
        (Reason.ACCEPTANCE_RATE, {}, {"limits": Limits(acceptance_rate=0.5)}, {}, 0.5),
    ],
)  # fmt: skip
def test_each_limit(expected, ask, donor, load, draw):
    assert reason(replace(ASK, **ask), replace(DONOR, **donor), Load(**load), draw=draw) is expected


def test_what_can_never_change_is_said_before_what_time_changes():
    shut = replace(DONOR, limits=hours(1, 2))
    verdict = decide(replace(ASK, excluded=frozenset({"d"})), shut, IDLE, NOW, 0.0)
    assert verdict.reason is Reason.EXCLUDED
    assert verdict.retry_at is None


def test_the_detail_has_the_values_that_decided():
    donor = replace(DONOR, limits=hours(22, 6, "Europe/Berlin"))
    verdict = decide(ASK, donor, IDLE, utc(2026, 7, 1, 12, 5), 0.0)
    assert verdict.detail == "works 22-6 Europe/Berlin, it is 14:05 there"
    assert verdict.retry_at == utc(2026, 7, 1, 20, 0)
    short = decide(replace(ASK, gpu_memory_gb=9), DONOR, Load(gpu_memory_used_gb=16), NOW, 0.0)
    assert short.detail == "16 of 24 GB used and 9 GB asked; allows 90 %"


def test_now_needs_a_time_zone():
    with pytest.raises(ValueError, match="time zone"):
        decide(ASK, DONOR, IDLE, datetime(2026, 7, 1), 0.0)  # noqa: DTZ001


# Hourly cap


def capped(**load: object) -> tuple[Donor, Load]:
    return replace(DONOR, limits=Limits(max_jobs_per_hour=3)), Load(**load)


def test_the_hourly_cap_says_when_a_slot_frees():
    frees = NOW.timestamp() + 90.25
    donor, load = capped(started_last_hour=3, hourly_slot_frees_at=frees)
    verdict = decide(ASK, donor, load, NOW, 0.0)
    assert verdict.reason is Reason.HOURLY_CAP
    assert verdict.retry_at == NOW + timedelta(seconds=90.25)
    assert decide(ASK, donor, load, verdict.retry_at, 0.0)
    assert not decide(ASK, donor, load, verdict.retry_at - timedelta(microseconds=1), 0.0)


def test_no_retry_is_promised_when_one_freed_slot_is_not_enough():
    donor, load = capped(started_last_hour=5, hourly_slot_frees_at=NOW.timestamp() - 1)
    assert decide(ASK, donor, load, NOW, 0.0).reason is Reason.HOURLY_CAP
    assert decide(ASK, donor, load, NOW, 0.0).retry_at is None
    assert decide(ASK, *capped(started_last_hour=3), NOW, 0.0).retry_at is None
    assert decide(ASK, *capped(started_last_hour=2), NOW, 0.0)


def test_a_slot_that_frees_after_hours_is_of_use_when_they_open():
    donor = replace(DONOR, limits=hours(8, 13, max_jobs_per_hour=1))
    load = Load(started_last_hour=1, hourly_slot_frees_at=utc(2026, 7, 1, 13, 30).timestamp())
    assert decide(ASK, donor, load, NOW, 0.0).reason is Reason.HOURLY_CAP
    assert decide(ASK, donor, load, NOW, 0.0).retry_at == utc(2026, 7, 2, 8)


def test_hours_that_open_before_the_slot_frees_are_of_no_use_yet():
    donor = replace(DONOR, limits=hours(13, 18, max_jobs_per_hour=1))
    load = Load(started_last_hour=1, hourly_slot_frees_at=utc(2026, 7, 1, 13, 30).timestamp())
    assert decide(ASK, donor, load, NOW, 0.0).reason is Reason.OUTSIDE_WORKING_HOURS
    assert decide(ASK, donor, load, NOW, 0.0).retry_at == utc(2026, 7, 1, 13, 30)


@given(st.floats(1.7e9, 1.9e9))
def test_who_waits_for_a_moment_never_wakes_too_early(seconds):
    assert moment_of(seconds).timestamp() >= seconds
    assert moment_of(seconds).timestamp() < seconds + 1e-5


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Antarctica/Troll")
zones = st.sampled_from(ZONES)
windows = st.tuples(st.integers(0, 23), st.integers(0, 23)).filter(lambda pair: pair[0] != pair[1])

loads = st.builds(
    Load,
    running=st.integers(0, 3),
    started_last_hour=st.integers(0, 4),
    hourly_slot_frees_at=st.none() | st.floats(-3600, 3600).map(lambda after: NOW.timestamp() + after),
)


@given(windows, zones, loads, st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_a_retry_is_the_first_moment_at_which_time_is_no_obstacle(window, zone, load, slots, per_hour):
    donor = replace(DONOR, limits=hours(*window, zone, max_concurrent_jobs=slots, max_jobs_per_hour=per_hour))
    verdict = standing(donor, load, NOW)
    by_time = (Reason.OUTSIDE_WORKING_HOURS, Reason.HOURLY_CAP)
    if verdict.retry_at is None:
        assert verdict.reason is not Reason.OUTSIDE_WORKING_HOURS or load.started_last_hour >= per_hour > 0
        return
    assert verdict.reason in by_time
    assert verdict.retry_at > NOW
    assert standing(donor, load, verdict.retry_at - timedelta(microseconds=1)).reason in by_time
    if load.started_last_hour <= per_hour:
        assert standing(donor, load, verdict.retry_at).reason not in by_time


# The end of a window


def ending(seconds: float, *, pace: float = 1.0, limits: Limits | None = None, now: datetime = NOW) -> Verdict:
    donor = replace(DONOR, limits=limits or hours(8, 13), pace=pace)
    return decide(replace(ASK, seconds=seconds), donor, IDLE, now, 0.0)


def test_no_work_is_begun_that_would_not_end_before_the_window_closes():
    assert ending(3600)
    late = ending(3601)
    assert (late.reason, late.retry_at) == (Reason.WINDOW_CLOSES, utc(2026, 7, 2, 8))
    assert late.detail == "closes in 3600 s, such work takes about 3.6e+03 s here"
    assert ending(0, now=utc(2026, 7, 1, 12, 59, 59)), "of unknown length: it may be short"
    assert ending(1e9, limits=Limits()), "a window that never closes"


def test_a_slow_donor_needs_more_time_than_others():
    assert ending(1800, pace=2.0)
    assert not ending(1801, pace=2.0)
    assert ending(7200, pace=0.5)


def test_work_that_is_longer_than_any_window_is_promised_nothing():
    assert ending(5 * 3600, now=utc(2026, 7, 1, 8))
    late = ending(5 * 3600 + 1, now=utc(2026, 7, 1, 8))
    assert (late.reason, late.retry_at) == (Reason.WINDOW_CLOSES, None)


@given(windows, zones, st.floats(1, 90_000), st.floats(0.1, 10), st.floats(0, 86_400))
@settings(max_examples=120, deadline=None)
def test_what_is_accepted_ends_in_the_window_and_a_retry_is_no_false_hope(window, zone, seconds, pace, at):
    limits, now = hours(*window, zone), NOW + timedelta(seconds=at)
    verdict = ending(seconds, pace=pace, limits=limits, now=now)
    if verdict:
        closes = closes_at(limits, now)
        assert closes is not None
        assert (closes - now).total_seconds() >= seconds * pace
    if verdict.reason is Reason.WINDOW_CLOSES and verdict.retry_at is not None:
        assert ending(seconds, pace=pace, limits=limits, now=verdict.retry_at)
        assert standing(replace(DONOR, limits=limits), IDLE, now), "other reasons come first"


@given(st.floats(0, 100), st.floats(0, 100), st.floats(1, 100), st.floats(0.1, 100))
def test_less_memory_in_use_never_turns_a_yes_into_a_no(used, less, percent, asked):
    donor = replace(DONOR, limits=Limits(max_gpu_memory_percent=percent))
    ask = replace(ASK, gpu_memory_gb=asked)
    low, high = sorted((used, less))
    assert free_memory_gb(donor, Load(gpu_memory_used_gb=low)) >= free_memory_gb(donor, Load(gpu_memory_used_gb=high))
    if decide(ask, donor, Load(gpu_memory_used_gb=high), NOW, 0.0):
        assert decide(ask, donor, Load(gpu_memory_used_gb=low), NOW, 0.0)


@given(st.floats(0.1, 1.0), st.lists(st.floats(0, 1, exclude_max=True), min_size=1))
def test_a_rate_takes_the_lots_below_it(rate, lots):
    donor = replace(DONOR, limits=Limits(acceptance_rate=rate))
    assert [bool(decide(ASK, donor, IDLE, NOW, lot)) for lot in lots] == [lot < rate for lot in lots]


asks = st.builds(
    Ask,
    type=st.sampled_from(["embedding", "llm"]),
    model=st.sampled_from([None, "a", "b"]),
    gpu_memory_gb=st.sampled_from([0.0, 5.0]),
    excluded=st.sampled_from([frozenset(), frozenset({"d"})]),
)
busy = st.builds(
    replace,
    loads,
    paused=st.booleans(),
    loaded=st.sampled_from([frozenset(), frozenset({"a"})]),
    gpu_memory_used_gb=st.sampled_from([0.0, 20.0]),
)


@given(asks, busy, windows | st.none(), st.integers(1, 4), st.integers(0, 4))
@settings(max_examples=120, deadline=None)
def test_a_batch_decided_at_once_is_no_larger_than_one_decided_job_by_job(ask, load, window, slots, per_hour):
    start, end = window or (None, None)
    limits = Limits(
        working_hours_start=start, working_hours_end=end, max_concurrent_jobs=slots, max_jobs_per_hour=per_hour
    )
    donor = replace(DONOR, limits=limits)
    at_once, started, now_on = (room(donor, load, NOW) if admits(ask, donor, load) else 0), 0, load
    while decide(ask, donor, now_on, NOW, 0.0):
        started += 1
        now_on = replace(load, running=load.running + started, started_last_hour=load.started_last_hour + started)
    assert at_once <= started
    assert bool(at_once) == bool(started)
    if load.hourly_slot_frees_at is None or load.hourly_slot_frees_at > NOW.timestamp():
        assert at_once == started

"""When a donor is open: daily hours and the week, on the days when clocks change too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from idlegrid.grid import hours as hours_module
from idlegrid.grid.donors import Limits
from idlegrid.grid.hours import closes_at, describe, is_open, open_for, opens_at, opens_for
from idlegrid.grid.schedule import DAYS, Schedule

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def hours(start: int, end: int, zone: str = "UTC", **rest: object) -> Limits:
    return Limits(working_hours_start=start, working_hours_end=end, time_zone=zone, **rest)


def week(text: str, zone: str = "UTC", **rest: object) -> Limits:
    return Limits(schedule=Schedule(text), time_zone=zone, **rest)


@pytest.mark.parametrize(
    ("limits", "now", "opens", "closes"),
    [
        (hours(9, 17), utc(2026, 7, 1, 9), utc(2026, 7, 1, 9), utc(2026, 7, 1, 17)),
        (hours(9, 17), utc(2026, 7, 1, 17), utc(2026, 7, 2, 9), utc(2026, 7, 1, 17)),
        (hours(22, 6), utc(2026, 7, 1, 23), utc(2026, 7, 1, 23), utc(2026, 7, 2, 6)),
        (hours(22, 6), utc(2026, 7, 1, 6), utc(2026, 7, 1, 22), utc(2026, 7, 1, 6)),
        (hours(22, 0), utc(2026, 7, 1, 23, 59), utc(2026, 7, 1, 23, 59), utc(2026, 7, 2)),
        # Kathmandu is 5:45 ahead
        (hours(9, 17, "Asia/Kathmandu"), utc(2026, 7, 1, 3, 14), utc(2026, 7, 1, 3, 15), utc(2026, 7, 1, 3, 14)),
        # Berlin skips 2:00-3:00 on 29 March: the night is an hour shorter
        (hours(22, 6, "Europe/Berlin"), utc(2026, 3, 28, 23), utc(2026, 3, 28, 23), utc(2026, 3, 29, 4)),
        (hours(2, 6, "Europe/Berlin"), utc(2026, 3, 29, 0, 30), utc(2026, 3, 29, 1), utc(2026, 3, 29, 0, 30)),
        (hours(3, 6, "Europe/Berlin"), utc(2026, 3, 29, 0, 30), utc(2026, 3, 29, 1), utc(2026, 3, 29, 0, 30)),
        (hours(23, 2, "Europe/Berlin"), utc(2026, 3, 29, 0, 30), utc(2026, 3, 29, 0, 30), utc(2026, 3, 29, 1)),
        # the hour that doesn't exist that day: the window is lost, the next one is tomorrow's
        (hours(2, 3, "Europe/Berlin"), utc(2026, 3, 29, 0, 30), utc(2026, 3, 30, 0), utc(2026, 3, 29, 0, 30)),
        # Berlin has 2:00-3:00 twice on 25 October
        (hours(22, 6, "Europe/Berlin"), utc(2026, 10, 24, 23), utc(2026, 10, 24, 23), utc(2026, 10, 25, 5)),
        (hours(2, 3, "Europe/Berlin"), utc(2026, 10, 24, 23, 59), utc(2026, 10, 25, 0), utc(2026, 10, 24, 23, 59)),
        (hours(2, 3, "Europe/Berlin"), utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 2)),
        (hours(3, 6, "Europe/Berlin"), utc(2026, 10, 25, 0, 59), utc(2026, 10, 25, 2), utc(2026, 10, 25, 0, 59)),
        # Lord Howe moves by half an hour: 2:00 is 2:30 on 4 October (15:30 UTC the day before)
        (hours(2, 6, "Australia/Lord_Howe"), utc(2026, 10, 3, 15), utc(2026, 10, 3, 15, 30), utc(2026, 10, 3, 15)),
        # Troll moves by two: 3:00 is 1:00 on 25 October, so 2:00-3:00 comes twice, an hour apart
        (hours(2, 3, "Antarctica/Troll"), utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 1)),
        (hours(2, 3, "Antarctica/Troll"), utc(2026, 10, 25, 1), utc(2026, 10, 25, 2), utc(2026, 10, 25, 1)),
        # Apia had no 30 December 2011
        (hours(20, 22, "Pacific/Apia"), utc(2011, 12, 30, 9), utc(2011, 12, 31, 6), utc(2011, 12, 30, 9)),
    ],
)  # fmt: skip
def test_working_hours(limits, now, opens, closes):
    assert opens_at(limits, now) == opens
    assert closes_at(limits, now) == closes


def test_around_the_clock():
    for limits in (Limits(), hours(0, 0), hours(7, 7, "Europe/Berlin")):
        assert is_open(limits, NOW)
        assert opens_at(limits, NOW) == NOW
        assert closes_at(limits, NOW) is None


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Nuuk", "Asia/Kathmandu")
ZONES += ("Asia/Tehran", "Australia/Lord_Howe", "Pacific/Chatham", "Africa/Casablanca", "Antarctica/Troll")
ZONES += ("Pacific/Apia",)
zones = st.sampled_from(ZONES)
windows = st.tuples(st.integers(0, 23), st.integers(0, 23)).filter(lambda pair: pair[0] != pair[1])


@st.composite
def moments_near_clock_changes(draw):
    """A zone and a moment, more often than not within a day of a change of its clock."""
    zone = ZoneInfo(draw(zones))
    day = utc(draw(st.integers(2010, 2030)), 1, 1) + timedelta(days=draw(st.integers(0, 364)))
    if draw(st.booleans()):
        offsets = [(at, at.astimezone(zone).utcoffset()) for at in (day + timedelta(days=n) for n in range(240))]
        day = next((at for (at, old), (_, new) in pairwise(offsets) if old != new), day)
    return zone.key, day + timedelta(minutes=draw(st.integers(-1440, 2880)))


quarters = st.integers(0, 95).map(lambda quarter: f"{quarter // 4:02}:{quarter % 4 * 15:02}")
weeks = st.lists(
    st.tuples(st.sampled_from([*DAYS, "mon-fri", "sat-sun", "fri-mon", "daily"]), quarters, quarters).filter(
        lambda part: part[1] != part[2]
    ),
    min_size=1,
    max_size=3,
).map(lambda parts: Schedule(", ".join(f"{days} {start}-{end}" for days, start, end in parts)))


@st.composite
def limits_of_time(draw, places):
    """Hours, a schedule or both, that ever open and ever shut, in a zone, and a moment."""
    zone, now = draw(places)
    kind = draw(st.sampled_from(["hours", "week", "both"]))
    start, end = draw(windows) if kind != "week" else (None, None)
    schedule = draw(weeks) if kind != "hours" else None
    if schedule is not None:
        assume(not schedule.always and (start is None or schedule.meets(start, end)))
    return Limits(working_hours_start=start, working_hours_end=end, schedule=schedule, time_zone=zone), now


@given(limits_of_time(moments_near_clock_changes()))
@settings(max_examples=150, deadline=None)
def test_hours_turn_exactly_when_a_look_every_quarter_of_an_hour_sees_it(case):
    limits, now = case
    opened = is_open(limits, now)
    turn = closes_at(limits, now) if opened else opens_at(limits, now)
    # every offset of these zones is a whole number of quarter hours, so nothing turns in between
    step = now.replace(minute=now.minute // 15 * 15) + timedelta(minutes=15)
    while is_open(limits, step) is opened:
        step += timedelta(minutes=15)
    assert turn == step
    assert is_open(limits, turn - timedelta(microseconds=1)) is opened


@given(limits_of_time(moments_near_clock_changes()), st.lists(st.integers(-20_000, 20_000), max_size=6))
@settings(max_examples=80, deadline=None)
def test_what_is_remembered_of_a_window_is_never_wrong(case, steps):
    limits, now = case
    for minutes in steps:
        at = now + timedelta(minutes=minutes)
        remembered = closes_at(limits, at)
        hours_module._known.clear()
        assert remembered == closes_at(limits, at)


@pytest.mark.parametrize(
    ("limits", "now", "opens", "closes"),
    [
        # 1 July 2026 is a Wednesday
        (week("mon-fri 18:00-08:00"), utc(2026, 7, 1, 12), utc(2026, 7, 1, 18), utc(2026, 7, 1, 12)),
        (week("mon-fri 18:00-08:00"), utc(2026, 7, 3, 19), utc(2026, 7, 3, 19), utc(2026, 7, 4, 8)),
        (week("mon-fri 18:00-08:00"), utc(2026, 7, 4, 9), utc(2026, 7, 6, 18), utc(2026, 7, 4, 9)),
        (week("mon-fri 18:00-08:00, sat-sun 00:00-24:00"), utc(2026, 7, 3, 18), utc(2026, 7, 3, 18), utc(2026, 7, 6)),
        (week("sun 00:00-24:00", "Europe/Berlin"), utc(2026, 7, 1), utc(2026, 7, 4, 22), utc(2026, 7, 1)),
        # the night of the clock change: Berlin skips 2:00-3:00 on Sunday, 29 March, and has it twice on 25 October
        (week("sun 02:30-06:00", "Europe/Berlin"), utc(2026, 3, 29), utc(2026, 3, 29, 1), utc(2026, 3, 29)),
        (week("sun 02:00-02:45", "Europe/Berlin"), utc(2026, 3, 28), utc(2026, 4, 5), utc(2026, 3, 28)),
        (week("sun 02:30-02:45", "Europe/Berlin"),
         utc(2026, 10, 25, 1), utc(2026, 10, 25, 1, 30), utc(2026, 10, 25, 1)),
        # Apia had no Friday, 30 December 2011: Thursday is followed by Saturday
        (week("fri 00:00-24:00", "Pacific/Apia"), utc(2011, 12, 30), utc(2012, 1, 5, 10), utc(2011, 12, 30)),
        (week("thu-fri 12:00-12:30, sat 00:00-01:00", "Pacific/Apia"),
         utc(2011, 12, 30, 9, 59), utc(2011, 12, 30, 10), utc(2011, 12, 30, 9, 59)),
        # both: the hours of each day, on the days of the week
        (week("mon-fri 00:00-24:00", working_hours_start=22, working_hours_end=6),
         utc(2026, 7, 3, 23), utc(2026, 7, 3, 23), utc(2026, 7, 4)),
        (week("mon-fri 00:00-24:00", working_hours_start=22, working_hours_end=6),
         utc(2026, 7, 4), utc(2026, 7, 6), utc(2026, 7, 4)),
    ],
)  # fmt: skip
def test_a_week(limits, now, opens, closes):
    assert opens_at(limits, now) == opens
    assert closes_at(limits, now) == closes


def test_a_week_that_never_shuts():
    limits = week("daily 00:00-24:00")
    assert is_open(limits, NOW)
    assert closes_at(limits, NOW) is None
    assert open_for(limits, 1e9, NOW)


def test_the_hours_in_words():
    now = utc(2026, 7, 1, 12, 5)
    assert describe(hours(22, 6, "Europe/Berlin"), now) == "works 22-6 Europe/Berlin, it is 14:05 there"
    told = describe(week("sat-sun 00:00-24:00", working_hours_start=22, working_hours_end=6), now)
    assert told == "works 22-6 and sat-sun 00:00-24:00 UTC, it is Wed 12:05 there"


@given(limits_of_time(moments_near_clock_changes()), st.floats(0, 100_000))
@settings(max_examples=80, deadline=None)
def test_work_that_fits_ends_before_it_shuts_and_work_that_does_not_is_told_when_it_will(case, seconds):
    limits, now = case
    if open_for(limits, seconds, now):
        for part in (0.0, 0.37, 0.999):
            assert is_open(limits, now + timedelta(seconds=seconds * part))
        return
    later = opens_for(limits, seconds, now)
    if later is not None:
        assert later > now
        assert open_for(limits, seconds, later)
        assert not open_for(limits, seconds, later - timedelta(minutes=1))

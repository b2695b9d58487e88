"""The week of a donor: what its owner may write, what it means, and what is refused with which words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.donors import Limits
from idlegrid.grid.schedule import DAYS, Schedule

HOUR, DAY = 60, 24 * 60
MONDAY = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("mon 09:00-17:30", [(9 * HOUR, 17 * HOUR + 30)]),
        ("tue 22:00-06:00", [(DAY + 22 * HOUR, 2 * DAY + 6 * HOUR)]),
        ("sun 22:00-06:00", [(0, 6 * HOUR), (6 * DAY + 22 * HOUR, 7 * DAY)]),
        ("sat-sun 00:00-24:00", [(5 * DAY, 7 * DAY)]),
        ("fri-mon 8:00-9:00", [(day * DAY + 8 * HOUR, day * DAY + 9 * HOUR) for day in (0, 4, 5, 6)]),
        ("Monday, WED  8:00 - 9:00", [(8 * HOUR, 9 * HOUR), (2 * DAY + 8 * HOUR, 2 * DAY + 9 * HOUR)]),
        ("mon 8:00-10:00, mon 9:00-12:00, mon 12:00-13:00", [(8 * HOUR, 13 * HOUR)]),
        ("daily 00:00-24:00", [(0, 7 * DAY)]),
        ("mon-fri 18:00-08:00, sat-sun 00:00-24:00",
         [(day * DAY + 18 * HOUR, (day + 1) * DAY + 8 * HOUR) for day in range(4)] + [(4 * DAY + 18 * HOUR, 7 * DAY)]),
    ],
)  # fmt: skip
def test_what_an_owner_writes(text, spans):
    assert list(Schedule(text).spans) == spans
    assert Schedule(text).always == (spans == [(0, 7 * DAY)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write days and times"),
        ("mon 8-9", "'mon 8-9' is no part of a schedule"),
        ("mon-fri", "ends with days that have no times"),
        ("mon-fri 08:00-12:00,", "'' is no part"),
        ("mo 08:00-12:00", "'mo' is no day; .* Did you mean 'mon'"),
        ("mon 08:00-24:01", "'24:01' is no time"),
        ("mon 08:60-09:00", "'08:60' is no time"),
        ("mon 08:00-08:00", "has no length; for the whole day write 00:00-24:00"),
        ("mon 24:00-08:00", "has no length"),
        ("mon 08:00-12:00;" * 99, "allowed: up to 500"),
    ],
)
def test_what_no_owner_can_mean(text, words):
    with pytest.raises(ValueError, match=words):
        Schedule(text)


def test_two_that_mean_the_same_are_equal_and_keep_their_words():
    one, other = Schedule("mon 08:00-10:00, mon 10:00-12:00"), Schedule("mon 8:00-12:00")
    assert one == other
    assert hash(one) == hash(other)
    assert one.text != other.text


times = st.integers(0, 24 * 60 - 1)
days = st.sampled_from(DAYS)
parts = st.tuples(days, days, times, times).filter(lambda part: part[2] != part[3])


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(st.lists(parts, min_size=1, max_size=5), st.integers(0, 7 * DAY - 1))
def test_it_covers_what_any_of_its_windows_covers(windows, minute):
    """Against a reading that goes day by day, without any arithmetic of weeks."""
    schedule = Schedule(", ".join(f"{a}-{b} {clock(start)}-{clock(end)}" for a, b, start, end in windows))
    day, at = divmod(minute, DAY)
    yesterday = (day - 1) % 7

    def open_in(first, last, start, end):
        span = range(DAYS.index(first), DAYS.index(last) + 1 + 7 * (DAYS.index(first) > DAYS.index(last)))
        on = {number % 7 for number in span}
        if start < end:
            return day in on and start <= at < end
        return (day in on and at >= start) or (yesterday in on and at < end)

    expected = any(open_in(*window) for window in windows)
    assert schedule.covers(MONDAY + timedelta(minutes=minute)) == expected
    assert schedule.covers(MONDAY + timedelta(minutes=minute, seconds=59)) == expected
    before = schedule.covers(MONDAY + timedelta(minutes=minute - 1))
    if before != expected:
        assert divmod(at, 60) in schedule.turns(day), "a turn that a search over its times would miss"


@given(parts, st.integers(0, 23), st.integers(0, 23))
def test_hours_and_schedule_meet_where_some_minute_is_in_both(window, start, end):
    schedule = Schedule(f"{window[0]}-{window[1]} {clock(window[2])}-{clock(window[3])}")
    if start != end:
        hours = set(range(start, end) if start < end else [*range(start, 24), *range(end)])
        both = any(
            schedule.covers(MONDAY + timedelta(minutes=minute)) and minute % DAY // 60 in hours
            for minute in range(7 * DAY)
        )
        assert schedule.meets(start, end) == both


def test_limits_that_never_allow_work_are_refused():
    Limits(schedule=Schedule("mon-fri 18:00-08:00"), working_hours_start=7, working_hours_end=17)
    with pytest.raises(ValueError, match=r"schedule is .* with working hours 9-17.*some time in which both allow work"):
        Limits(schedule=Schedule("mon-fri 18:00-08:00"), working_hours_start=9, working_hours_end=17)

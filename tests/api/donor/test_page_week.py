"""The owner's week: hours, schedules, clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from idlegrid.api.donor.page_week import limits_of, next_morning, week

BERLIN = "Europe/Berlin"
WEDNESDAY = datetime(2026, 3, 4, 13, 20, tzinfo=UTC)


def spans(now=WEDNESDAY, zone=BERLIN, **values):
    return [day.spans for day in week(limits_of(values, zone), now)]


def test_without_hours_it_is_all_day():
    assert spans() == ["all day"] * 7
    assert all(hour.share == 1.0 for day in week(limits_of({}, "UTC"), WEDNESDAY) for hour in day.hours)


def test_hours_over_midnight():
    assert spans(working_hours_start=18, working_hours_end=8) == ["00:00–08:00, 18:00–24:00"] * 7


def test_a_schedule_by_days_and_minutes():
    found = spans(schedule="mon-fri 18:30-08:00, sat-sun 00:00-24:00")
    assert found == ["00:00–08:00, 18:30–24:00"] * 3 + ["all day", "all day", "18:30–24:00", "00:00–08:00, 18:30–24:00"]
    [wednesday, *_rest] = week(limits_of({"schedule": "mon-fri 18:30-08:00"}, BERLIN), WEDNESDAY)
    assert [wednesday.hours[hour].share for hour in (7, 8, 18, 19)] == [1.0, 0.0, 0.5, 1.0]


def test_both_must_allow():
    found = spans(schedule="wed-fri 08:00-20:00", working_hours_start=18, working_hours_end=23)
    assert found == ["18:00–20:00"] * 3 + ["not at all"] * 4


def test_now_is_marked_by_the_owners_wall_clock():
    late = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)  # Thursday, half past midnight, in Berlin
    days = week(limits_of({}, BERLIN), late)
    marked = [(day.date.isoformat(), number) for day in days for number, hour in enumerate(day.hours) if hour.now]
    assert marked == [("2026-03-05", 0)]
    assert [day.today for day in days] == [True] + [False] * 6


@pytest.mark.parametrize("now", [datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)])
def test_a_week_in_which_the_clock_changes(now):
    assert spans(now, working_hours_start=1, working_hours_end=6) == ["01:00–06:00"] * 7


def test_values_that_are_no_limits():
    with pytest.raises((TypeError, ValueError)):
        limits_of({"max_concurrent_jobs": "many"}, "UTC")
    with pytest.raises(ValueError, match="is no day"):
        limits_of({"schedule": "whenever"}, "UTC")


def test_tomorrow_morning():
    assert next_morning(WEDNESDAY, BERLIN) == datetime(2026, 3, 5, 7, tzinfo=UTC)
    assert next_morning(datetime(2026, 3, 28, 12, tzinfo=UTC), BERLIN) == datetime(2026, 3, 29, 6, tzinfo=UTC)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.token_bucket import TokenBucket


def test_a_minutes_requests_at_once_and_then_one_at_a_time():
    bucket = TokenBucket.per_minute(60, now=0.0)
    assert [bucket.take(0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.4) == pytest.approx(0.6), "a refused request takes nothing"
    assert bucket.take(1.0) == 0.0
    assert bucket.take(1.0) > 0


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = TokenBucket.per_minute(1, now=100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(10.0) > 0
    assert bucket.take(130.0) > 0


@given(requests=st.integers(1, 1000), gaps=st.lists(st.floats(0, 30), max_size=200))
def test_never_more_than_the_bucket_and_what_flows_in(requests: int, gaps: list[float]):
    now, taken, bucket = 0.0, 0, TokenBucket.per_minute(requests, now=0.0)
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        taken += wait == 0
        assert wait >= 0
        assert taken <= requests + requests / 60 * now + 1e-6


@given(st.integers(1, 1000), st.floats(0, 100))
def test_who_waits_as_told_is_served(requests: int, now: float):
    bucket = TokenBucket.per_minute(requests, now=now)
    while (wait := bucket.take(now)) == 0:
        pass
    assert bucket.take(now + wait + 1e-6) == 0

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.api.client.retry import FIRST, LONGEST, pause, retry_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10_000), DRAWS)
def test_pauses_grow_to_a_bound(attempt, draw):
    assert FIRST / 2 <= pause(attempt, draw) <= LONGEST
    assert pause(attempt, draw) <= pause(attempt + 1, draw)


@given(st.integers(0, 100), DRAWS, st.floats(0, 1e6))
def test_what_the_service_asks_for_is_never_cut_short(attempt, draw, asked):
    assert pause(attempt, draw, asked) >= asked


def test_clients_do_not_come_back_together():
    assert len({pause(4, draw / 100) for draw in range(100)}) == 100
    assert len({pause(0, draw / 100, 7.0) for draw in range(100)}) == 100


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        (" 0 ", 0.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("soon", None),
        ("-1", None),
        ("\u0663", None),
        ("Sun, 01 Mar 2026 12:00:30", None),  # without a zone it is no HTTP date
    ],
)
def test_retry_after_as_number_and_as_date(header, seconds):
    assert retry_after(header, NOW) == seconds

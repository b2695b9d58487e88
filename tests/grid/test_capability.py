"""Capabilities: what is signed opens its own attempt until it expires, and nothing else opens anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.capability import BadCapability, Capability, check, mint

SECRET = b"0123456789abcdef"
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
TOKEN = mint(SECRET, "5f0c", 7, LATER)


def test_a_token_opens_its_attempt_until_it_expires():
    assert check(SECRET, TOKEN, NOW) == Capability("5f0c", 7, LATER)
    assert check(SECRET, TOKEN, LATER - timedelta(microseconds=1)).fence == 7
    with pytest.raises(BadCapability, match="expired at 2026-09-01 13:00:00 UTC"):
        check(SECRET, TOKEN, LATER)


def test_its_form_is_the_contracts():
    version, job, fence, expires, mac = TOKEN.split(".")
    assert (version, job, fence, expires) == ("v1", "5f0c", "7", str(int(LATER.timestamp())))
    assert len(mac) == 64
    assert int(mac, 16)


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="utf-8"))
def test_whatever_is_changed_in_it_it_opens_nothing(place, letter):
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    if changed != TOKEN:
        with pytest.raises(BadCapability):
            check(SECRET, changed, NOW)


@pytest.mark.parametrize("token", ["", "v1", "v1....", "v2" + TOKEN[2:], TOKEN + ".x", "v1.5f0c.7.x.0", "\udc80"])
def test_what_is_no_token_opens_nothing(token):
    with pytest.raises(BadCapability):
        check(SECRET, token, NOW)


def test_another_grids_token_opens_nothing():
    with pytest.raises(BadCapability, match="signature"):
        check(b"another grid's secret", TOKEN, NOW)


@pytest.mark.parametrize("job", ["", "a.b"])
def test_an_id_that_would_blur_the_parts_is_refused(job):
    with pytest.raises(ValueError, match="dot"):
        mint(SECRET, job, 1, LATER)


def test_an_expiry_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        mint(SECRET, "a", 1, datetime(2026, 9, 1))  # noqa: DTZ001

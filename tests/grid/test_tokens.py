"""Tokens by kind, their digests, and when a refresh token renews."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.secret import derived
from idlegrid.grid.tokens import RETRY, SECOND, Kind, RefreshState, Renewal, digest_of, new_token, prefix_of, renewal

DAY = 24 * 3600 * SECOND


@pytest.mark.parametrize("kind", Kind)
def test_a_token_is_of_one_kind_only(kind: Kind):
    token = new_token(kind)
    assert re.fullmatch(r"ig[ewr]_[A-Za-z0-9]{8}_[A-Za-z0-9_-]{43}", token.text)
    assert prefix_of(kind, token.text) == token.prefix
    assert all(prefix_of(other, token.text) is None for other in Kind if other is not kind)
    assert len({new_token(kind).text for _ in range(100)}) == 100


@pytest.mark.parametrize("text", ["", "igw_", "igw_abcdefgh_x", "ig_abcdefgh_" + "x" * 43, "igw_abcdefg\n_" + "x" * 43])
def test_what_is_no_token(text: str):
    assert prefix_of(Kind.ACCESS, text) is None


def test_a_digest_needs_the_key():
    text = new_token(Kind.ACCESS).text
    assert digest_of(b"a", text) == digest_of(b"a", text) != digest_of(b"b", text)
    assert len({derived(b"s" * 32, "a"), derived(b"s" * 32, "b"), derived(b"t" * 32, "a")}) == 3


def state(**change: object) -> RefreshState:
    facts = {"expires_at": DAY, "revoked_at": None, "spent_at": None, "successor_used": False} | change
    return RefreshState(**facts)  # type: ignore[arg-type]


LATE = round(RETRY * SECOND)


@pytest.mark.parametrize(
    ("known", "now", "verdict"),
    [
        (state(), 0, Renewal.ROTATE),
        (state(), DAY - 1, Renewal.ROTATE),
        (state(), DAY, Renewal.EXPIRED),
        (state(revoked_at=1), 2, Renewal.REVOKED),
        (state(spent_at=5), 5 + LATE, Renewal.REPEAT),
        (state(spent_at=5), 6 + LATE, Renewal.STOLEN),
        (state(spent_at=5, successor_used=True), 6, Renewal.STOLEN),
        (state(spent_at=5, revoked_at=6), 7, Renewal.REVOKED),
        (state(spent_at=DAY - 1), DAY + 1, Renewal.REPEAT),
    ],
)
def test_the_rule_of_renewal(known: RefreshState, now: int, verdict: Renewal):
    assert renewal(known, now) is verdict


@given(st.integers(0, 2 * DAY), st.integers(0, 2 * DAY), st.booleans())
def test_a_token_rotates_once(spent_at: int, later: int, used: bool):
    assert renewal(state(spent_at=spent_at, successor_used=used), spent_at + later) is not Renewal.ROTATE

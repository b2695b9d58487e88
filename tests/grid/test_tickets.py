"""Tickets: one opens its job type at its worker once, until it expires; nothing else opens anything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.tickets import BadTicket, Spent, Ticket, TooManyTickets, check, mint, proof

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=60)
TICKET = Ticket(worker_id="w/1", client_id="c|1", job_type="llm", expires_at=SOON, nonce="00ff" * 8)
TEXT = mint(SECRET, TICKET)


def opens(text: str, now: datetime = NOW, *, secret: bytes = SECRET, worker: str = "w/1", kind: str = "llm") -> Ticket:
    return check(secret, text, now, worker_id=worker, job_type=kind)


def test_a_ticket_says_what_was_put_in():
    assert opens(TEXT) == TICKET
    assert opens(TEXT, SOON - timedelta(microseconds=1)) == TICKET


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"now": SOON}, "expired"),
        ({"now": NOW - timedelta(minutes=10)}, "longer than any"),
        ({"worker": "w/2"}, "another worker"),
        ({"kind": "embedding"}, "another job type"),
        ({"secret": b"another worker's secret"}, "signature"),
    ],
)
def test_anywhere_else_it_opens_nothing(how, why):
    with pytest.raises(BadTicket, match=why):
        opens(TEXT, **how)


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="utf-8"))
def test_whatever_is_changed_in_it_it_opens_nothing(place, letter):
    changed = TEXT[:place] + letter + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(BadTicket):
            opens(changed)


@given(st.text())
def test_what_is_no_ticket_opens_nothing(text):
    with pytest.raises(BadTicket):
        opens(text)


@given(worker=st.text(), client=st.text(), kind=st.text())
def test_no_two_tickets_have_one_text(worker, client, kind):
    """No part of a ticket can be moved into another one, whatever its names look like."""
    ticket = replace(TICKET, worker_id=worker, client_id=client, job_type=kind)
    assert opens(mint(SECRET, ticket), worker=worker, kind=kind) == ticket


@pytest.mark.parametrize("said", ["W10", "e30", "bm8", "WzEsMiwzLDQsNV0", "WyIiLCIiLCIiLDFlOTk5LCIiXQ", "é", "a"])
def test_what_is_signed_and_still_no_ticket_is_refused(said):
    from idlegrid.grid.tickets import VERSION, _mac

    with pytest.raises(BadTicket):
        opens(f"{VERSION}.{said}.{_mac(SECRET, said)}")


@pytest.mark.parametrize("nonce", ["", "00ff", "x" * 32, "00FF" * 8, "0" * 65])
def test_a_nonce_that_could_be_guessed_is_not_signed(nonce):
    with pytest.raises(ValueError, match="nonce"):
        mint(SECRET, replace(TICKET, nonce=nonce))


def test_an_expiry_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        mint(SECRET, replace(TICKET, expires_at=datetime(2026, 9, 1)))  # noqa: DTZ001


def other(number: int, expires: datetime = SOON) -> Ticket:
    return replace(TICKET, nonce=f"{number:016x}", expires_at=expires)


def test_it_is_taken_once():
    spent = Spent()
    spent.spend(TICKET, NOW)
    with pytest.raises(BadTicket, match="used before"):
        spent.spend(TICKET, NOW + timedelta(seconds=59))
    spent.spend(other(1), NOW)


def test_a_full_memory_takes_nothing_until_some_have_expired():
    spent = Spent(limit=3)
    for number in range(3):
        spent.spend(other(number, NOW + timedelta(seconds=10 + number)), NOW)
    with pytest.raises(TooManyTickets):
        spent.spend(other(3), NOW)
    spent.spend(other(3), NOW + timedelta(seconds=10))
    assert len(spent) == 3
    with pytest.raises(TooManyTickets):
        spent.spend(other(4), NOW + timedelta(seconds=10))


def test_a_clock_that_is_put_back_opens_none_again():
    spent = Spent()
    spent.spend(TICKET, NOW)
    spent.spend(other(1, SOON + timedelta(minutes=5)), SOON + timedelta(seconds=1))  # the first is forgotten here
    assert len(spent) == 1
    with pytest.raises(BadTicket, match="expired"):
        spent.spend(TICKET, NOW)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), max_size=60))
def test_no_ticket_is_ever_taken_twice(tries):
    """Whatever comes when, with a memory of four."""
    spent, taken = Spent(limit=4), set()
    for number, second in tries:
        ticket = other(number, NOW + timedelta(seconds=number))
        try:
            spent.spend(ticket, NOW + timedelta(seconds=second))
        except (BadTicket, TooManyTickets):
            continue
        assert number not in taken
        taken.add(number)
        assert len(spent) <= 4


def test_only_who_has_the_secret_can_prove_who_it_is():
    challenge = "ab" * 16
    assert proof(SECRET, "w-1", challenge) == proof(SECRET, "w-1", challenge)
    others = {proof(SECRET, "w-2", challenge), proof(b"x" * 32, "w-1", challenge), proof(SECRET, "w-1", "cd" * 16)}
    assert proof(SECRET, "w-1", challenge) not in others
    with pytest.raises(ValueError, match="challenge"):
        proof(SECRET, "w-1", "no challenge")

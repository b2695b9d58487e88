"""A donor's certificate: kept for its owner alone, asked for in time, told."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest

from idlegrid.api.doctor import Health
from idlegrid.api.donor.certificate import OwnCertificate
from idlegrid.api.donor.doctor import _certificate
from idlegrid.api.donor.server import Certificate
from idlegrid.api.donor.state import Home, Kept
from idlegrid.grid.certificates import Authority
from idlegrid.grid.peers import Role

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CA = Authority.make(NOW - timedelta(days=100))
TLS, TCP = "tls://192.0.2.9:8786", "tcp://192.0.2.9:8786"


def given(made_at):
    issued = CA.issue(Role.WORKER, "w-1", made_at)
    return Certificate(certificate=issued.certificate, key=issued.key, authority=issued.authority)


@pytest.fixture
def home(tmp_path):
    home = Home.find(tmp_path)
    home.make()
    return home


def test_it_is_kept_for_its_owner_alone_and_replaced(home):
    own = OwnCertificate(home)
    own.keep(None)
    assert own.expires_at() is None
    for made_at in (NOW - timedelta(days=1), NOW):
        own.keep(given(made_at))
        assert own.expires_at() == made_at + timedelta(days=7)
    assert stat.S_IMODE(home.certificate.stat().st_mode) == 0o600
    assert home.authority.read_text() == CA.pem


@pytest.mark.parametrize(
    ("scheduler", "made", "due"),
    [
        (TLS, None, True),
        (TLS, 0, False),
        (TLS, 4, False),
        (TLS, 5, True),
        (TLS, 30, True),
        (TCP, None, False),
        (TCP, 30, False),
        (None, 30, False),
    ],
)
def test_a_new_one_is_asked_for_where_the_scheduler_wants_one(home, scheduler, made, due):
    own = OwnCertificate(home)
    if made is not None:
        own.keep(given(NOW - timedelta(days=made)))
    assert own.due(scheduler, NOW) is due


@pytest.mark.parametrize(
    ("made", "health", "words"),
    [
        (1, Health.OK, "good until 2026-11-27 09:00 UTC"),
        (6, Health.NOTE, "good until 2026-11-22 09:00 UTC"),
        (8, Health.PROBLEM, "ran out at 2026-11-20 09:00 UTC"),
        (None, Health.PROBLEM, "there is none"),
    ],
)
def test_the_doctor_tells_how_long_it_is_good(home, made, health, words):
    Kept(scheduler_address=TLS).save(home.state)
    if made is not None:
        OwnCertificate(home).keep(given(NOW - timedelta(days=made)))
    [found] = _certificate(home, NOW)
    assert (found.health, found.found) == (health, words)


@pytest.mark.parametrize("kept", [Kept(scheduler_address=TCP), Kept(scheduler_address=TLS, pull=True), Kept()])
def test_the_doctor_says_nothing_where_none_is_wanted(home, kept):
    kept.save(home.state)
    assert list(_certificate(home, NOW)) == []

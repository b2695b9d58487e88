"""The agent's line to a real service: tokens that are renewed whatever gets lost, and noes that are understood."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from donor_grid import ADMIN, donor_grid, until

from idlegrid.api.donor import heart
from idlegrid.api.donor.heart import Heart, backoff, refresh_at
from idlegrid.api.donor.joining import join
from idlegrid.api.donor.server import Away, Refused, Service
from idlegrid.api.donor.state import Home
from idlegrid.api.ports import CannotStart
from idlegrid.grid.credentials import Credentials, Signer

NOW = datetime(2026, 5, 1, tzinfo=UTC)
BODY = {"status": "online", "config_version": 1, "incarnation": "i-1"}


@pytest.mark.parametrize(
    ("left", "early"), [(timedelta(hours=24), 4), (timedelta(hours=8), 4), (timedelta(hours=2), 1), (timedelta(-1), 0)]
)
def test_a_token_is_renewed_four_hours_early_or_after_half_of_what_is_left(left, early):
    assert refresh_at(NOW + left, NOW) == NOW + left - timedelta(hours=early)


def test_tries_are_spread_and_come_less_and_less_often():
    assert [backoff(n, 0.999) > backoff(n, 0.0) for n in (1, 5)] == [True, True]
    assert [round(backoff(n, 1.0)) for n in (1, 2, 3, 20)] == [1, 2, 4, 60]
    assert backoff(1000, 0.0) == 30.0


@pytest.fixture
def grid(tmp_path):
    with donor_grid(tmp_path) as grid:
        yield grid


@asynccontextmanager
async def beating(grid, home):
    """A heart that is beaten by hand, over a line that can be broken."""
    heard = []

    async def hear(answer):
        heard.append(answer)

    async with Service(grid.proxy.url, timeout=10, signer=Signer(home.credentials)) as service:
        one = Heart(service, home.credentials, interval=1, facts=lambda: BODY, heard=hear, changed=lambda: None)
        one.heard_so_far = heard
        yield one


def run_out(home):
    """Let the access token be one that must be renewed."""
    held = Credentials.load(home.credentials)
    replace(held, token_expires_at=datetime.now(UTC) - timedelta(seconds=1)).save(home.credentials)
    return held


@pytest.mark.slow
async def test_a_heartbeat_arrives(grid, tmp_path):
    home, held = await grid.joined(tmp_path / "home")
    async with beating(grid, home) as one:
        await one.beat()
    assert (one.beats, one.interval, len(one.heard_so_far)) == (1, 1.0, 1)
    assert grid.store.donors.get(held.worker_id).incarnation == "i-1"


@pytest.mark.slow
async def test_a_token_that_runs_out_is_renewed_first(grid, tmp_path):
    home, _ = await grid.joined(tmp_path / "home")
    before = run_out(home)
    async with beating(grid, home) as one:
        await one.beat()
    after = Credentials.load(home.credentials)
    assert after.token != before.token
    assert after.refresh_token != before.refresh_token
    assert after.token_expires_at > datetime.now(UTC) + timedelta(hours=20)


@pytest.mark.slow
@pytest.mark.parametrize("protected", [True, False])
async def test_an_answer_that_is_lost_is_asked_for_again(grid, tmp_path, monkeypatch, protected):
    """The control asks once, and stands there with a refresh token that is spent."""
    if not protected:
        monkeypatch.setattr(heart, "LOST", 0.0)
    home, _ = await grid.joined(tmp_path / "home")
    before = run_out(home)
    async with beating(grid, home) as one:
        grid.proxy.lose_answers = 1
        if protected:
            await one.beat()
            assert Credentials.load(home.credentials).refresh_token != before.refresh_token
        else:
            with pytest.raises(Away, match="did not answer"):
                await one.beat()
            assert Credentials.load(home.credentials).refresh_token == before.refresh_token
    assert grid.proxy.broken == 1


@pytest.mark.slow
async def test_a_machine_that_is_not_known_any_more_is_told_what_to_do(grid, tmp_path):
    home, held = await grid.joined(tmp_path / "home")
    async with beating(grid, home) as one:
        running = asyncio.create_task(one.run())
        await until(lambda: one.beats)
        grid.store.credentials.revoke(held.worker_id, ADMIN)
        one.beat_now()
        await until(lambda: one.refused)
        assert "ask its operator for a token" in one.refused
        await join(home, grid.proxy.url, grid.token(), pull=True)
        one.beat_now()
        await until(lambda: one.refused is None)
        running.cancel()


@pytest.mark.slow
async def test_who_is_blocked_is_let_in_again_later(grid, tmp_path):
    home, held = await grid.joined(tmp_path / "home")
    async with beating(grid, home) as one:
        grid.store.donors.block(held.worker_id, ADMIN)
        with pytest.raises(Refused, match="blocked"):
            await one.beat()
        grid.store.donors.unblock(held.worker_id, ADMIN)
        await one.beat()


@pytest.mark.slow
async def test_a_grid_that_is_away_is_no_reason_to_stop(grid, tmp_path):
    home, _ = await grid.joined(tmp_path / "home")
    async with beating(grid, home) as one:
        grid.proxy.lose_answers = 1
        running = asyncio.create_task(one.run())
        await until(lambda: one.away)
        assert "did not answer" in one.away
        await until(lambda: one.away is None and one.beats)
        running.cancel()


@pytest.mark.slow
async def test_an_enrolment_lets_one_machine_in(grid, tmp_path):
    home, other, token = Home.find(tmp_path / "one"), Home.find(tmp_path / "other"), grid.token()
    held = await join(home, grid.proxy.url, token, pull=True)
    assert await join(home, grid.proxy.url + "/", token, pull=False) == held, "the same line typed again"
    with pytest.raises(CannotStart, match="not let in"):
        await join(other, grid.proxy.url, token, pull=True)
    assert not other.credentials.exists()
    again = await join(home, grid.proxy.url, grid.token(), pull=True)
    assert again.worker_id != held.worker_id, "another token is another registration"


@pytest.mark.slow
async def test_nobody_there_and_no_grid_there(grid, tmp_path):
    home = Home.find(tmp_path / "home")
    with pytest.raises(CannotStart, match=r"can't be reached.*is the URL right"):
        await join(home, "http://127.0.0.1:1", "ige_x", pull=True)
    with pytest.raises(CannotStart, match="not let in"):
        await join(home, f"{grid.proxy.url}/elsewhere", "ige_x", pull=True)

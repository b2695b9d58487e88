"""The agent between its owner and a real grid. Paused, so that nothing computes: what it knows and says is the same."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from donor_grid import ADMIN, DEADLINE, SCHEDULER, donor_grid, until

from idlegrid.api.donor.agent import Agent
from idlegrid.api.donor.face import AgentState
from idlegrid.api.donor.log import LogRing
from idlegrid.api.donor.membership import Options
from idlegrid.api.donor.state import Kept
from idlegrid.grid.commands import Order

pytestmark = pytest.mark.slow


@pytest.fixture
def grid(tmp_path):
    with donor_grid(tmp_path) as grid:
        yield grid


@asynccontextmanager
async def working(grid, folder, own="", **kept):
    """An agent that runs; it leaves in the end."""
    folder.mkdir()
    (folder / "config.yaml").write_text(own)
    home, held = await grid.joined(folder, **({"paused": True} | kept))
    agent = Agent(home, Options(), LogRing())
    running = asyncio.create_task(agent.run())
    agent.running = running
    try:
        await until(lambda: grid.store.donors.get(held.worker_id).incarnation or running.done())
        yield agent
    finally:
        agent.stop_now()
        await asyncio.wait_for(running, DEADLINE)
    assert grid.store.donors.get(held.worker_id).worker.facts.status == "offline"


def limit(agent, key):
    return agent.status().limits[key]


async def test_what_an_administrator_sets_is_in_force_without_a_restart(grid, tmp_path):
    async with working(grid, tmp_path / "home") as agent:
        worker_id = agent.status().worker_id
        grid.store.donors.set_config(worker_id, {"max_concurrent_jobs": 3}, ADMIN, expected=None)
        await until(lambda: limit(agent, "max_concurrent_jobs") == 3)
        assert agent.status().config_version == grid.store.donors.config(worker_id).version
        await until(lambda: grid.store.donors.get(worker_id).report["config_version"] == agent.status().config_version)
    assert Kept.load(agent.home.state).remote == {"max_concurrent_jobs": 3}, "a grid that is away changes nothing"


async def test_the_owner_s_limit_is_the_most_that_the_grid_may_take(grid, tmp_path):
    async with working(grid, tmp_path / "home", "load_control: {max_concurrent_jobs: 2}") as agent:
        worker_id = agent.status().worker_id
        assert grid.store.donors.config(worker_id).config == {"max_concurrent_jobs": 2}, "told when it joined"
        for wanted, then in ((5, 2), (1, 1)):
            grid.store.donors.set_config(worker_id, {"max_concurrent_jobs": wanted}, ADMIN, expected=None)
            version = grid.store.donors.config(worker_id).version
            await until(lambda version=version: agent.status().config_version == version)
            assert limit(agent, "max_concurrent_jobs") == then


async def test_what_the_owner_sets_is_told_even_if_somebody_else_was_first(grid, tmp_path):
    async with working(grid, tmp_path / "home") as agent:
        worker_id = agent.status().worker_id
        grid.store.donors.set_config(worker_id, {"max_jobs_per_hour": 9}, ADMIN, expected=None)
        await agent.set("acceptance_rate", "0.5")
        assert limit(agent, "acceptance_rate") == 0.5
        both = {"acceptance_rate": 0.5, "max_jobs_per_hour": 9}
        await until(lambda: grid.store.donors.config(worker_id).config == both)
        with pytest.raises(ValueError, match="Did you mean"):
            await agent.set("acceptance_rat", "0.5")
        with pytest.raises(ValueError, match="not allowed"):
            await agent.set("acceptance_rate", "7")
        assert limit(agent, "acceptance_rate") == 0.5


async def test_what_the_machine_is_is_told_when_it_changes(grid, tmp_path):
    async with working(grid, tmp_path / "home") as agent:
        worker_id = agent.status().worker_id
        name = agent.status().name
        await agent.set("region", "oceania")
        await agent.set("supported_types", "embedding")
        await until(lambda: said(grid, worker_id) == (name, "oceania", frozenset({"embedding"})))
        await agent.set("name", "cellar")
        await until(lambda: said(grid, worker_id) == ("cellar", "oceania", frozenset({"embedding"})))
        await until(lambda: agent.member.kept.announced == agent.member.facts())
    restarted = Agent(agent.home, Options(), LogRing())
    assert restarted.member.facts() == restarted.member.kept.announced, "nothing to be told once more"
    restarted.member._gpu = ("T4", 15.0, 1)
    assert restarted.member.facts()["gpu_model"] == "T4", "another GPU is"


def said(grid, worker_id):
    facts = grid.store.donors.get(worker_id).worker.facts
    return facts.name, facts.region, facts.supported_types


async def test_what_makes_no_sense_to_the_grid_is_told_once(grid, tmp_path, caplog):
    async with working(grid, tmp_path / "home") as agent:
        worker_id, beats = agent.status().worker_id, agent._heart.beats
        before = said(grid, worker_id)
        await agent.set("direct.enabled", "true")
        await agent.set("direct.public_url", "http://127.0.0.1:1/path")
        await until(lambda: agent._heart.beats > beats + 3)
        assert agent.status().state is AgentState.PAUSED
    assert caplog.text.count("does not take what this machine is now") == 1
    assert said(grid, worker_id) == before


async def test_commands_are_obeyed_once_and_the_pause_is_the_owner_s(grid, tmp_path):
    async with working(grid, tmp_path / "home") as agent:
        worker_id = agent.status().worker_id
        first = grid.store.donors.get(worker_id).incarnation
        for order in (Order.DRAIN, Order.RESUME, Order.RESTART):
            grid.store.donors.command(worker_id, order, ADMIN)
            await until(lambda: not grid.store.donors.get(worker_id).commands)
            assert agent.status().state is AgentState.PAUSED
        assert grid.store.donors.get(worker_id).incarnation != first
        grid.store.donors.command(worker_id, Order.SHUTDOWN, ADMIN)
        await until(agent.running.done)


async def test_a_scheduler_that_moved_is_followed(grid, tmp_path):
    async with working(grid, tmp_path / "home", pull=False, scheduler_address="tcp://127.0.0.1:1") as agent:
        await until(lambda: agent.member.scheduler == SCHEDULER)
    assert Kept.load(agent.home.state).scheduler_address == SCHEDULER


async def test_a_pause_has_its_end_and_outlives_a_restart(grid, tmp_path):
    soon = datetime.now(UTC) + timedelta(hours=1)
    async with working(grid, tmp_path / "home", paused_until=soon) as agent:
        status = agent.status()
        assert (status.state, status.paused_until) == (AgentState.PAUSED, soon)
        await until(lambda: grid.store.donors.get(status.worker_id).worker.facts.status == "paused")
        assert grid.store.donors.get(status.worker_id).paused_reason == "paused"
        assert "you paused it until" in status.reason
        await agent.drain()  # nothing runs, so it leaves at once
        await until(agent.running.done)
    assert Kept.load(agent.home.state).paused_until == soon


async def test_a_pause_ends_by_itself(grid, tmp_path):
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    closed = f"load_control: {{working_hours_start: {_hour(6)}, working_hours_end: {_hour(7)}, time_zone: UTC}}"
    async with working(grid, tmp_path / "home", closed, paused_until=soon) as agent:
        await until(lambda: not Kept.load(agent.home.state).paused)
        assert "outside your hours" in agent.status().reason


def _hour(later):
    return (datetime.now(UTC).hour + later) % 24

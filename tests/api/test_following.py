"""One process of many serves what the store wants: it follows, reports, hands over, and outlives the database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from distributed import Client

from idlegrid.api.following import Follower
from idlegrid.api.http.oracle import Silent
from idlegrid.grid.deployments import DeploymentSpec, DeploymentState
from idlegrid.grid.store import SERVING, By, StoreUnavailable, open_store
from idlegrid.pipelines.llm.deployment import Deployment
from idlegrid.pipelines.llm.service import LlmService
from idlegrid.scheduler_plugins.scheduler import GridScheduler

ME = By("tests")


class Board:
    """Keeps what it was told, or is silent."""

    def __init__(self) -> None:
        self.told: list[tuple[str, list[str]]] = []
        self.silent = False

    async def deployed(self, holder, deployments):
        if self.silent:
            raise Silent("silent")
        self.told.append((holder, [one["model"] for one in deployments]))


@pytest.fixture
def store(sqlite_url):
    with open_store(sqlite_url) as store:
        yield store


@pytest.fixture
async def client():
    """Of a grid without workers: whoever is deployed waits for one."""
    async with (
        GridScheduler(protocol="inproc", dashboard=False, dashboard_address="127.0.0.1:0") as scheduler,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        yield client


@pytest.fixture
async def process(store, client):
    """Makes processes: a follower with a real service."""
    made = []

    async def make(holder, *own, place=None, over=None, **more):
        service = LlmService(client, own)
        await service.__aenter__()
        follower = Follower(over or store, service, holder, own=own, **more)
        follower._place = place
        made.append(follower)
        return follower, service

    yield make
    for follower in made:
        await follower.close()


async def served(service):
    return {one.id: one.replicas for one in await service.models()}


async def test_what_is_wanted_is_served_scaled_and_withdrawn(store, process):
    follower, service = await process("one")
    store.deployments.create(DeploymentSpec(model="a/b"), ME)
    await follower.look()
    assert follower.serving
    assert await served(service) == {"a/b": 1}
    told = store.deployments.get("a/b")
    assert (told.report.state, told.report.version) == (DeploymentState.PLACING, 1)
    assert "0 of 1 replicas" in told.report.why
    store.deployments.change("a/b", {"replicas": 3}, ME)
    await follower.look()
    assert await served(service) == {"a/b": 3}
    assert store.deployments.get("a/b").report.version == 2
    store.deployments.withdraw("a/b", ME)
    await follower.look()
    assert await served(service) == {}
    assert store.deployments.list() == [], "withdrawn and gone"


async def test_it_is_settled_once_all_that_is_wanted_was_taken(store, process, monkeypatch):
    """Until then a model that is not here may come: a batch would answer its requests with 404."""
    follower, service = await process("one")
    store.deployments.create(DeploymentSpec(model="a/b"), ME)
    seen = []
    deploy = service.deploy
    monkeypatch.setattr(
        service, "deploy", lambda wanted: (seen.append((follower.serving, follower.settled)), deploy(wanted))
    )
    await follower.look()
    assert seen == [(True, False)]
    assert follower.settled


async def test_what_can_not_be_served_says_why(store, process):
    follower, service = await process("one")
    store.deployments.create(DeploymentSpec(model="a/b", engine="tortch"), ME)
    await follower.look()
    assert await served(service) == {}
    report = store.deployments.get("a/b").report
    assert report.state is DeploymentState.REFUSED
    assert "Did you mean 'torch'?" in report.why
    store.deployments.change("a/b", {"engine": "torch"}, ME)
    await follower.look()
    assert store.deployments.get("a/b").report.state is DeploymentState.PLACING


async def test_one_of_two_processes_serves_and_the_other_takes_over(store, process):
    one, first = await process("one", place="http://one:1")
    two, second = await process("two", place="http://two:1")
    store.deployments.create(DeploymentSpec(model="a/b"), ME)
    for follower in (one, two):
        await follower.look()
    assert (one.serving, two.serving) == (True, False)
    assert await served(second) == {}
    assert one.elsewhere is None
    assert (two.elsewhere.holder, two.elsewhere.place, two.elsewhere.models) == ("one", "http://one:1", ("a/b",))
    await one.close()
    await two.look()
    assert two.serving
    assert two.elsewhere is None
    assert await served(second) == {"a/b": 1}
    assert await served(first) == {}


async def test_who_lost_the_lease_stops_serving(store, process):
    clock = [0.0]
    one, service = await process("one", clock=lambda: clock[0])
    store.deployments.create(DeploymentSpec(model="a/b"), ME)
    await one.look()
    store.leases.release(SERVING, "one")  # as if it had been frozen for longer than its lease
    store.leases.hold(SERVING, "two", 30, "http://two:1")
    clock[0] += 60
    await one.look()
    assert await served(service) == {}
    assert one.elsewhere.place == "http://two:1"


async def test_who_listens_where_the_last_one_did_takes_its_place_at_once(store, process):
    store.leases.hold(SERVING, "killed", 30, "http://here:1")
    other, _ = await process("other", place="http://elsewhere:1")
    await other.look()
    assert not other.serving, "the control: another one waits for the lease to end"
    again, _ = await process("again", place="http://here:1")
    await again.look()
    assert again.serving


async def test_models_of_its_own_are_served_beside(store, process):
    own = Deployment(model="c/d", device="auto")
    one, _ = await process("one")
    two, service = await process("two", own)
    store.deployments.create(DeploymentSpec(model="a/b"), ME)
    await one.look()
    await two.look()
    assert await served(service) == {"c/d": 1}
    await one.close()
    store.deployments.create(DeploymentSpec(model="c/d", replicas=2), ME)
    await two.look()
    assert await served(service) == {"c/d": 2, "a/b": 1}, "what the store says of it goes first"
    store.deployments.withdraw("c/d", ME)
    await two.look()
    assert (await served(service))["c/d"] == 1


def take_away(store, path):
    store._database.close()
    for name in ("-wal", "-shm"):
        Path(f"{path}{name}").unlink(missing_ok=True)
    shutil.move(path, path.with_suffix(".kept"))
    path.mkdir()


def bring_back(path):
    path.rmdir()
    shutil.move(path.with_suffix(".kept"), path)


async def test_what_is_served_goes_on_while_the_database_is_away(tmp_path: Path, process):
    path = tmp_path / "away.db"
    with open_store(f"sqlite:///{path}", timeout=0.2) as store:
        store.upgrade()
        store.deployments.create(DeploymentSpec(model="a/b"), ME)
        follower, service = await process("one", over=store)
        await follower.look()
        take_away(store, path)
        with pytest.raises(StoreUnavailable):
            await follower.look()
        assert await served(service) == {"a/b": 1}
        bring_back(path)
        store.deployments.change("a/b", {"replicas": 2}, ME)
        await follower.look()
        assert await served(service) == {"a/b": 2}
        await follower.close()


async def test_the_scheduler_is_told_what_is_served(store, process):
    board, clock = Board(), [0.0]
    follower, _ = await process("one", board=board, clock=lambda: clock[0])
    await follower.show()
    assert board.told == [], "nothing to show"
    store.deployments.create(DeploymentSpec(model="a/b"), ME)
    await follower.look()
    board.silent = True
    await follower.show()
    board.silent = False
    await follower.show()
    await follower.show()
    assert board.told == [("one", ["a/b"])]
    clock[0] += 10
    await follower.show()
    assert len(board.told) == 2, "a scheduler that is new hears it too"
    store.deployments.withdraw("a/b", ME)
    await follower.look()
    await follower.show()
    assert board.told[-1] == ("one", [])

"""Who guesses is locked out, the worker that is guessed at never is (A6): real sockets, different addresses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from donors_service import BEAT, HERE, Donor, join
from jobs_service import BASE, Service, with_settings

from idlegrid.api.http.worker_auth import Checkpoint
from idlegrid.grid.lockout import FAILURES, FAILURES_OF_ADDRESS, Lockout
from idlegrid.grid.store import Store

pytestmark = pytest.mark.slow

VICTIM, ATTACKER, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@pytest.fixture
def service(store: Store) -> Service:
    return Service(store, with_settings(api={"auth": True}))


@pytest.fixture
async def url(service: Service) -> AsyncIterator[str]:
    """A real server: addresses are those of real connections."""
    async with process(service) as url:
        yield url


@asynccontextmanager
async def process(service: Service) -> AsyncIterator[str]:
    """One of the processes that serve: an application of its own over the store that all of them share."""
    config = uvicorn.Config(service.app(), port=0, log_level="critical", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def caller(url: str, address: str) -> httpx.AsyncClient:
    """Somebody who comes from another address of the loopback."""
    transport = httpx.AsyncHTTPTransport(local_address=address)
    return httpx.AsyncClient(transport=transport, base_url=url, headers={"Host": BASE.removeprefix("http://")})


@pytest.fixture
async def victim(url: str, service: Service, tmp_path: Path) -> AsyncIterator[Donor]:
    async with caller(url, VICTIM) as client:
        yield await join(client, service.store, tmp_path)


async def guess(client: httpx.AsyncClient, worker_id: str, number: int = 0) -> int:
    token = f"igw_{number:08}_{'x' * 43}"
    path = f"/api/v1/workers/{worker_id}/heartbeat"
    return (await client.post(path, json=BEAT, headers={"X-Worker-Token": token})).status_code


async def test_a_thousand_bad_tokens_lock_out_who_sends_them(url: str, victim: Donor):
    answers: Counter[int] = Counter()
    async with caller(url, ATTACKER) as attacker:
        first = [await guess(attacker, victim.id, number) for number in range(FAILURES + 1)]
        assert first == [401] * FAILURES + [429]
        for number in range(FAILURES + 1, 1000):
            answers[await guess(attacker, victim.id, number)] += 1
            if number % 20 == 0:
                assert (await victim.beat()).status_code == 200, number
    assert answers == {429: 1000 - FAILURES - 1}


async def test_locked_by_the_id_alone_the_victim_would_be_silent(url: str, victim: Donor, monkeypatch):
    """The control: the rule that locks a worker's id, wherever the failures come from, before it looks at the token."""
    plain, admit = Lockout.failed, Checkpoint.admit
    locked: set[str] = set()

    def failed(self: Lockout, claimed: str, address: str | None, now: float) -> float:
        wait = plain(self, claimed, None, now)
        if wait:
            locked.add(claimed)
        return wait

    async def locked_first(self: Checkpoint, scope, worker_id: str, **more):
        if worker_id in locked:
            raise self._failure(scope, worker_id, "invalid_worker_token", "")
        return await admit(self, scope, worker_id, **more)

    monkeypatch.setattr(Lockout, "failed", failed)
    monkeypatch.setattr(Checkpoint, "admit", locked_first)
    async with caller(url, ATTACKER) as attacker:
        for number in range(FAILURES + 1):
            await guess(attacker, victim.id, number)
    assert (await victim.beat()).status_code == 429


async def test_a_valid_token_opens_also_from_an_address_that_is_locked(url: str, victim: Donor):
    """Many donors share one address, behind one router."""
    assert [await guess(victim.client, victim.id, number) for number in range(8)][-1] == 429
    assert (await victim.beat()).status_code == 200
    assert await guess(victim.client, victim.id) == 401, "and its success ends the row"


async def test_an_unknown_worker_looks_like_a_known_one(url: str, victim: Donor):
    async with caller(url, ATTACKER) as attacker:
        known = [await guess(attacker, victim.id, number) for number in range(7)]
        unknown = [await guess(attacker, "w-none", number) for number in range(7)]
    assert known == unknown == [401] * FAILURES + [429] * 2


async def test_an_address_that_guesses_everywhere_is_locked(url: str, victim: Donor):
    async with caller(url, ATTACKER) as attacker:
        codes = [await guess(attacker, f"w-{number}", number) for number in range(FAILURES_OF_ADDRESS + 5)]
        assert codes == [401] * FAILURES_OF_ADDRESS + [429] * 5
        body = await attacker.post("/api/v1/workers/register", json={}, headers={"X-Enrolment-Token": "x"})
        assert (body.status_code, body.json()["code"]) == (429, "locked_out")
        assert 1 <= int(body.headers["retry-after"]) <= 900
    async with caller(url, THIRD) as third:
        assert await guess(third, victim.id) == 401


@pytest.mark.parametrize("way", ["over HTTP", "in the database"])
async def test_an_administrator_unlocks(url: str, service: Service, victim: Donor, way: str):
    async with caller(url, ATTACKER) as attacker:
        assert [await guess(attacker, victim.id, number) for number in range(6)][-1] == 429
        if way == "over HTTP":
            key = service.key("admin")
            path = f"/api/v1/admin/workers/{victim.id}/unlock"
            assert (await victim.client.post(path, headers={"X-API-Key": key})).status_code == 200
        else:
            service.store.donors.unlock(victim.id, HERE)
        assert await guess(attacker, victim.id) == 401


async def test_each_process_counts_for_itself_and_unlock_reaches_all(url: str, service: Service, victim: Donor):
    """docs/decisions/0008: what several processes promise together."""
    async with process(service) as second, caller(url, ATTACKER) as here, caller(second, ATTACKER) as there:
        for attacker in (here, there):
            codes = [await guess(attacker, victim.id, number) for number in range(FAILURES + 2)]
            assert codes == [401] * FAILURES + [429] * 2
        for place in (url, second):
            async with caller(place, ATTACKER) as client:
                assert (await replace(victim, client=client).beat()).status_code == 200
                assert await guess(client, victim.id) == 401, "its success ended the row"
                assert [await guess(client, victim.id, number) for number in range(FAILURES)][-1] == 429
        service.store.donors.unlock(victim.id, HERE)
        assert [await guess(attacker, victim.id) for attacker in (here, there)] == [401, 401]


async def test_invitations_are_not_guessed_either(url: str, service: Service, victim: Donor):
    async with caller(url, ATTACKER) as attacker:
        codes = []
        for number in range(7):
            headers = {"X-Enrolment-Token": f"ige_{number:08}_{'x' * 43}"}
            codes.append((await attacker.post("/api/v1/workers/register", json={}, headers=headers)).status_code)
        assert codes == [401] * FAILURES + [429] * 2
        assert (await join(attacker, service.store, victim.file.parent)).id

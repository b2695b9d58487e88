"""`GET /jobs/direct/nearest`: who is sent where, with a ticket that the worker takes, and who is sent nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from jobs_service import SECRET, Service, with_settings

from idlegrid.grid.store import Beat, By, NewWorker, Store, open_store
from idlegrid.grid.tickets import BadTicket, check, proof

ME = By("tests", "127.0.0.1")
NEAREST = "/api/v1/jobs/direct/nearest"
FIELDS = {"worker_id", "direct_url", "region", "client_region", "gpu_model", "reliability_score"}
EUROPE = {"regions": {"networks": {"127.0.0.0/8": "europe-west"}}}


@dataclass
class Donor:
    """A registered worker and its signing secret."""

    id: str
    secret: bytes


@pytest.fixture
def store(store: Store, tmp_path: Path) -> Iterator[Store]:
    """The same database, with the grid's secret."""
    with open_store(str(store._database.url), secret=lambda: SECRET) as opened:
        yield opened


def donor(store: Store, name: str = "attic", status: str = "online", report: Any = None, **facts: Any) -> Donor:
    """A worker that registered and was heard of just now."""
    _, token = store.enrolments.create(3600, None, ME)
    usual = {
        "region": "europe-west",
        "supported_types": frozenset({"llm"}),
        "direct_url": "https://gpu.example.org:8443",
    }
    made = store.credentials.register(token, NewWorker(name=name, **(usual | facts)))
    store.donors.heartbeat(Beat(worker_id=made.worker_id, status=status, incarnation="i", report=report or {}))
    return Donor(made.worker_id, made.signing_secret.encode())


async def ask(service: Service, kind: str = "llm", key: str | None = None, **query: Any) -> httpx.Response:
    async with service.client(key) as client:
        return await client.get(NEAREST, params={"job_type": kind} | query)


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_the_worker_and_a_ticket_that_it_takes(store):
    there = donor(store, gpu_model="RTX 4090", gpu_memory_gb=24)
    answer = await ask(Service(store, with_settings(**EUROPE)))
    told = answer.json()
    assert told.keys() == FIELDS | {"ticket", "ticket_expires_at", "challenge", "proof"}
    assert {name: told[name] for name in FIELDS} == {
        "worker_id": there.id,
        "direct_url": "https://gpu.example.org:8443",
        "region": "europe-west",
        "client_region": "europe-west",
        "gpu_model": "RTX 4090",
        "reliability_score": 0.75,
    }
    now = datetime.now(UTC)
    ticket = check(there.secret, told["ticket"], now, worker_id=there.id, job_type="llm")
    assert ticket.expires_at == datetime.fromisoformat(told["ticket_expires_at"])
    assert 0 < (ticket.expires_at - now).total_seconds() <= 60
    assert told["proof"] == proof(there.secret, there.id, told["challenge"])
    with pytest.raises(BadTicket):
        check(there.secret, told["ticket"], now, worker_id=there.id, job_type="embedding")
    for secret in (there.secret.decode(), SECRET.decode()):
        assert secret not in answer.text


async def test_two_tickets_are_never_one_and_the_client_is_a_name_that_means_nothing(store):
    there = donor(store)
    service = Service(store, with_settings(api={"auth": True}))
    keys = [service.key(client_id=name) for name in ("ada", "ada", "bob")]
    told = [(await ask(service, key=key)).json()["ticket"] for key in keys]
    tickets = [check(there.secret, text, datetime.now(UTC), worker_id=there.id, job_type="llm") for text in told]
    assert len({ticket.nonce for ticket in tickets}) == 3
    first, second, third = (ticket.client_id for ticket in tickets)
    assert first == second != third
    assert "ada" not in first


async def test_the_nearest_in_the_clients_region_or_in_the_one_that_was_asked_for(store):
    europe, asia = donor(store), donor(store, "far", region="asia-east")
    service = Service(store, with_settings(**EUROPE))
    assert (await ask(service)).json()["worker_id"] == europe.id
    there = (await ask(service, region="asia-east")).json()
    assert (there["worker_id"], there["client_region"]) == (asia.id, "europe-west")
    assert (await ask(service, exclude=[europe.id])).json()["worker_id"] == asia.id
    refused(await ask(service, exclude=[europe.id, asia.id]), 503, "direct_workers_busy")


@pytest.mark.parametrize(
    "facts",
    [
        {"direct_url": None},
        {"supported_types": frozenset({"embedding"})},
        {"status": "paused"},
        {"status": "draining"},
        {"direct_url": "http://gpu.example.org"},
        {"direct_url": "https://192.168.1.1"},
        {"direct_url": "https://user:word@gpu.example.org"},
    ],
)
async def test_who_can_not_or_may_not_be_gone_to(store, facts):
    donor(store, **facts)
    service = Service(store, with_settings(api={"private_direct_urls": False}))
    refused(await ask(service), 404, "no_direct_worker")


async def test_blocked_and_revoked_workers_are_not_named(store):
    blocked, revoked = donor(store), donor(store, "b")
    store.donors.block(blocked.id, ME)
    store.credentials.revoke(revoked.id, ME)
    refused(await ask(Service(store)), 503, "direct_workers_busy")


@pytest.mark.parametrize(
    ("facts", "model"),
    [
        ({"report": {"running": 1}}, None),
        ({"gpu_memory_gb": 8, "gpu_model": "small"}, "Qwen/Qwen2.5-72B-Instruct"),
        ({"models": frozenset({"other"})}, "some/model"),
    ],
)
async def test_the_same_policy_says_who_can_not_take_it_now(store, facts, model):
    donor(store, **facts)
    query = {} if model is None else {"model": model}
    answer = await ask(Service(store), **query)
    refused(answer, 503, "direct_workers_busy")
    assert int(answer.headers["retry-after"]) >= 1


async def test_what_the_grid_holds_of_a_workers_limits_counts(store):
    there = donor(store, config={"max_concurrent_jobs": 2}, report={"running": 1})
    assert (await ask(Service(store))).json()["worker_id"] == there.id


async def test_nonsense_in_a_heartbeat_harms_nobody_and_limits_that_nobody_can_read_allow_nothing(store):
    there = donor(store, report={"running": "three"})
    donor(store, "b", config={"max_concurrent_jobs": "many"}, region="europe-west", gpu_memory_gb=80, gpu_model="H100")
    service = Service(store)
    assert (await ask(service)).json()["worker_id"] == there.id
    refused(await ask(service, exclude=[there.id]), 503, "direct_workers_busy")


async def test_a_type_that_nobody_knows_and_a_query_that_is_none(store):
    service = Service(store)
    refused(await ask(service, "poetry"), 422, "unknown_job_type")
    refused(await ask(service, region="atlantis"), 422, "invalid_request")
    refused(await ask(service, exclude=["x"] * 33), 422, "invalid_request")
    refused(await ask(service), 404, "no_direct_worker")


async def test_it_needs_a_key_that_may_make_jobs(store):
    donor(store)
    service = Service(store, with_settings(api={"auth": True}))
    refused(await ask(service), 401, "api_key_required")
    refused(await ask(service, key=service.key("nodes")), 403, "scope_missing")
    assert (await ask(service, key=service.key("jobs"))).status_code == 200

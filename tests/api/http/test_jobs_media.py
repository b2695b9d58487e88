"""Jobs that name sound and pictures by their addresses: stored with the files themselves, fetched by the service."""

import base64
import gzip
import json

import media_files as files
import pytest
from jobs_service import Service, with_settings
from pydantic import BaseModel, ConfigDict

from idlegrid.api.fetching import FetchFailed, FetchLimits, FetchRefused
from idlegrid.grid import job_types
from idlegrid.grid.jobs import Ask

PICTURE = files.black_png(10, 10)
JOB = {"type": "look", "params": {"image_url": "https://media.example/p"}}


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")
    image_url: str | None = None
    image_base64: str | None = None
    question: str | None = None


class Look:
    """A job type that takes a picture."""

    name, Params, Result = "look", Params, Params

    def ask(self, params):
        return Ask(type=self.name)

    def run(self, params, context=None):
        return params


class Shelf:
    def __init__(self):
        self.limits, self.asked, self.answer = FetchLimits(), [], PICTURE

    async def fetch(self, url, *, kind, limits=None):
        self.asked.append(url)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
async def client(store, shelf, monkeypatch):
    register = job_types.Register({"look": Look()})
    monkeypatch.setattr(job_types, "register", lambda: register)
    async with Service(store, with_settings(fetch={"max_mb": 1}), fetcher=shelf).client() as client:
        yield client


async def params_of(store, answer):
    return store.jobs.get(answer.json()["job_id"]).params


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/jobs/sync?timeout=0.01"])
async def test_the_file_is_stored_and_not_its_address(path, client, store, shelf):
    answer = await client.post(path, json=JOB)
    assert answer.status_code in (201, 504)
    assert await params_of(store, answer) == {"image_base64": base64.b64encode(PICTURE).decode()}
    assert shelf.asked == ["https://media.example/p"]


async def test_a_repeat_fetches_nothing(client, store, shelf):
    headers = {"Idempotency-Key": "one"}
    first = await client.post("/api/v1/jobs", json=JOB, headers=headers)
    shelf.answer = FetchFailed("gone by now")
    second = await client.post("/api/v1/jobs", json=JOB, headers=headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["job_id"] == second.json()["job_id"]
    assert len(shelf.asked) == 1
    other = {"type": "look", "params": {"image_url": "https://media.example/q"}}
    assert (await client.post("/api/v1/jobs", json=other, headers=headers)).json()["code"] == "idempotency_conflict"


async def test_what_is_refused_is_the_clients_to_change(client, shelf):
    shelf.answer = FetchRefused("media.example is not on the public internet, and nothing else is fetched from")
    answer = await client.post("/api/v1/jobs", json=JOB)
    assert answer.status_code == 422
    (told,) = answer.json()["errors"]
    assert (told["field"], told["code"]) == ("params.image_url", "address_refused")
    assert "not on the public internet" in told["detail"]


async def test_what_does_not_come(client, shelf):
    shelf.answer = FetchFailed("the other side answered with status 404")
    answer = await client.post("/api/v1/jobs", json=JOB)
    assert (answer.status_code, answer.json()["code"]) == (422, "fetch_failed")


async def test_the_real_fetcher_stays_out_of_private_networks(store, monkeypatch):
    monkeypatch.setattr(job_types, "register", lambda: job_types.Register({"look": Look()}))
    async with Service(store, with_settings(fetch={"allow_http": True})).client() as client:
        for url in ("http://127.0.0.1:8000/", "http://127.0.0.1/", "http://localhost/", "http://[::1]/"):
            answer = await client.post("/api/v1/jobs", json={"type": "look", "params": {"image_url": url}})
            assert answer.json()["errors"][0]["code"] == "address_refused", url


async def test_files_may_be_larger_than_other_requests(client, store):
    """`api.max_body_mb` is 0.05 here, `fetch.max_mb` 1."""
    held = base64.b64encode(bytes(900_000)).decode()
    answer = await client.post("/api/v1/jobs", json={"type": "look", "params": {"image_base64": held}})
    assert answer.status_code == 201
    answer = await client.post("/api/v1/jobs", json={"type": "look", "params": {"image_base64": held * 2}})
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_compressed_bodies_are_never_unpacked(coding, client):
    """An 8 MB body of zeros is 8 kB as gzip: nobody unpacks it, so nothing grows."""
    packed = gzip.compress(json.dumps({"type": "look", "params": {"image_base64": "A" * 8_000_000}}).encode())
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    answer = await client.post("/api/v1/jobs", content=packed, headers=headers)
    assert answer.status_code in (400, 415, 422)

"""`idlegrid jobs` against the real service, and on the database."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "http"))  # their helpers: a real service over a real store
sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

from jobs_service import Service, with_settings
from live_service import claim, complete, serving

from idlegrid.grid.store import NewFile, NewJob, Placement, open_store
from idlegrid.grid.testimony import told

PARAMS = {"texts": ["a lease"]}
AT = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(sqlite_url, monkeypatch):
    monkeypatch.setenv("IDLEGRID_DATABASE_URL", sqlite_url)
    with open_store(sqlite_url) as store:
        yield store


@pytest.fixture
def service(store, monkeypatch):
    with serving(Service(store)) as url:
        monkeypatch.setenv("GPU_SERVER_URL", url)
        yield url


def test_nobody_there(idlegrid, monkeypatch):
    monkeypatch.setattr("idlegrid.api.cli.service.PATIENCE", 0.05)
    done = idlegrid("jobs", "ls", "--url", "http://127.0.0.1:1")
    assert done.code == 1
    assert done.err.startswith("error: http://127.0.0.1:1 could not be used")


@pytest.mark.parametrize("text", ["{", "[1]", "@nowhere.json"])
def test_parameters_that_are_none(idlegrid, text):
    done = idlegrid("jobs", "submit", "embedding", text, "--url", "http://127.0.0.1:1")
    assert done.code == 2
    assert "PARAMS" in done.err


@pytest.mark.slow
def test_the_life_of_a_job(idlegrid, service, store, tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    job_id = idlegrid("jobs", "submit", "embedding", f"@{tmp_path}/params.json", "--priority", "3").out.strip()
    again = [
        idlegrid("jobs", "submit", "embedding", json.dumps(PARAMS), "--idempotency-key", "k").out for _ in range(2)
    ]
    assert again[0] == again[1] != job_id
    shown = idlegrid("jobs", "show", job_id, "--json").json
    assert (shown["status"], shown["priority"], shown["result"]) == ("queued", 3, None)

    why = idlegrid("jobs", "why", job_id)
    assert (why.code, why.err) == (0, "")
    assert idlegrid("jobs", "why", job_id, "--json").json["status"] == "queued"

    claimed = claim(store, job_id)
    row = {"worker": "w-1", "name": "desk", "verdict": "accepted", "detail": "", "score": 80.0}
    said = told([row, *({**row, "worker": f"x-{n}", "verdict": "paused"} for n in range(99))], AT, path="dask")
    store.jobs.keep_verdicts([Placement(job_id, claimed.fence, said)])
    complete(store, claimed)
    shown = idlegrid("jobs", "show", job_id)
    assert "completed" in shown.out
    assert '"dimensions": 2' in shown.out
    events = [json.loads(line) for line in idlegrid("jobs", "events", job_id, "--json").out.splitlines()]
    assert [event["data"]["status"] for event in events] == ["queued", "running", "completed"]
    assert len(idlegrid("jobs", "events", job_id, "--after", events[0]["seq"]).out.splitlines()) == 2
    why = idlegrid("jobs", "why", job_id).out
    assert "try 1: w-1, completed" in why
    assert "said when it was placed, at 2026-07-01 12:00:00 UTC" in why
    assert f"and {said['others']['paused']} × paused" in why

    listed = idlegrid("jobs", "ls", "--type", "embedding", "--json").json
    assert {job["job_id"] for job in listed["jobs"]} == {job_id, again[0].strip()}
    page = idlegrid("jobs", "ls", "--limit", "1")
    assert "queued" in page.out
    cursor = page.out.rpartition("--cursor ")[2].strip()
    assert "completed" in idlegrid("jobs", "ls", "--cursor", cursor).out

    assert idlegrid("jobs", "cancel", again[0].strip(), job_id).out.splitlines() == [
        f"{again[0].strip()}: cancelled",
        f"{job_id}: completed",
    ]


@pytest.mark.slow
def test_a_running_job_is_told_to_stop(idlegrid, service, store):
    job_id = idlegrid("jobs", "submit", "embedding", json.dumps(PARAMS)).out.strip()
    claim(store, job_id)
    assert idlegrid("jobs", "cancel", job_id).out.strip() == f"{job_id}: its worker is told to stop"


@pytest.mark.slow
def test_what_the_service_refuses(idlegrid, service):
    done = idlegrid("jobs", "show", "none-such")
    assert done.code == 1
    assert "job_not_found" in done.err
    assert "unknown_job_type" in idlegrid("jobs", "submit", "embeding", "{}").err


@pytest.mark.slow
def test_a_key_is_made_used_and_revoked(idlegrid, store, monkeypatch):
    made = idlegrid("admin", "keys", "create", "a test", "--client", "me", "--rate", "60", "--days", "1", "--json").json
    assert (made["client_id"], made["scopes"], made["requests_per_minute"]) == ("me", ["jobs"], 60)
    with serving(Service(store, with_settings(api={"auth": True}))) as url:
        monkeypatch.setenv("GPU_SERVER_URL", url)
        assert "api_key_required" in idlegrid("jobs", "ls").err
        job_id = idlegrid("jobs", "submit", "embedding", json.dumps(PARAMS), "--api-key", made["key"]).out.strip()
        monkeypatch.setenv("IDLEGRID_API_KEY", made["key"])
        assert [job["job_id"] for job in idlegrid("jobs", "ls", "--json").json["jobs"]] == [job_id]
    assert made["prefix"] in idlegrid("admin", "keys", "ls").out
    assert made["key"] not in idlegrid("admin", "keys", "ls", "--json").out
    assert idlegrid("admin", "keys", "revoke", made["prefix"]).code == 0
    assert idlegrid("admin", "keys", "revoke", made["prefix"]).code == 1
    assert store.keys.find(made["key"]) is None
    [key] = idlegrid("admin", "keys", "ls", "--json").json
    assert key["revoked_at"] is not None
    assert store.jobs.get(job_id).client_id == "me"


def test_a_scope_that_is_none(idlegrid):
    done = idlegrid("admin", "keys", "create", "x", "--scope", "root")
    assert done.code == 2
    assert "jobs, admin, nodes" in done.err


def test_purge_deletes_one_client_and_asks_before(idlegrid, store, monkeypatch):
    for client in ("me", "me", "you"):
        store.jobs.accept(NewJob(type="embedding", params=PARAMS, client_id=client))
    kept = NewFile(id="f1", client_id="me", filename="f", bytes=10, purpose="batch", sha256="00", lives=None)
    store.files.add(kept)
    store.batches.create("me", "/v1/embeddings", "f1", window=60)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody answers
    assert idlegrid("jobs", "purge", "--client", "me").code == 1
    assert len(store.jobs.list().items) == 3
    assert idlegrid("jobs", "purge", "--client", "me", "--yes", "--json").json == {
        "client_id": "me",
        "jobs": 2,
        "usage": 0,
        "files": 1,
        "batches": 1,
    }
    assert store.files.list("me") == []
    assert store.batches.list("me") == []
    assert [job.client_id for job in store.jobs.list().items] == ["you"]


def test_a_database_that_can_not_be(idlegrid, monkeypatch):
    monkeypatch.setenv("IDLEGRID_DATABASE_URL", "mysql://somewhere/jobs")
    done = idlegrid("admin", "keys", "ls")
    assert done.code == 1
    assert done.err.startswith("error: database.url: ")

"""Trace ids, the log of requests, and that no prompt ever gets into a log."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
from collections.abc import Iterator

import pytest
from jobs_service import RESULT, WORKER_TOKEN, Patience, Says, Service, Worker, claim, with_settings
from starlette.datastructures import Headers

from idlegrid.api.http.trace import trace_from
from idlegrid.api.logs import configure, logger
from idlegrid.grid.store import Store

TRACE = "0af7651916cd43dd8448eb211c80319c"
CANARY = "canary-prompt-7b1f"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a service writes to its log."""
    root = logging.getLogger()
    before, level, own = root.handlers[:], root.level, logging.getLogger("idlegrid").level
    stream = io.StringIO()
    configure("debug", stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("idlegrid").setLevel(own)


def lines(log: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, TRACE),
        ({"x-trace-id": TRACE}, TRACE),
        ({"x-trace-id": TRACE.upper()}, TRACE),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-trace-id": "1" * 32}, TRACE),
        ({}, None),
        ({"x-trace-id": "x"}, None),
        ({"x-trace-id": "0" * 32}, None),
        ({"traceparent": "00-x-y-01"}, None),
    ],
)
def test_the_callers_trace_goes_on(headers, expected):
    found = trace_from(Headers(headers))
    assert found == expected if expected else len(found) == 32


async def test_one_line_a_request_with_its_trace(jobs, log):
    body = {"type": "embedding", "params": {"texts": ["x"]}}
    answer = await jobs.post("/api/v1/jobs", json=body, headers={"X-Trace-ID": TRACE, "X-Request-ID": "mine"})
    assert answer.headers["x-trace-id"] == TRACE
    id_ = answer.json()["job_id"]
    assert answer.json()["trace_id"] == TRACE
    await jobs.get(f"/api/v1/jobs/{id_}")
    accepted, request, second = [line for line in lines(log) if "trace_id" in line]
    assert (accepted["event"], accepted["job_id"]) == ("job.accepted", id_)
    assert (accepted["trace_id"], accepted["request_id"], accepted["level"]) == (TRACE, "mine", "info")
    assert (request["event"], request["method"], request["status"], request["client"]) == (
        "http.request",
        "POST",
        201,
        "local",
    )
    assert request["route"] == "/api/v1/jobs"
    assert second["route"] == "/api/v1/jobs/{job_id}", "the pattern: a path may hold what a client wrote"
    assert second["trace_id"] != TRACE


async def test_a_prompt_gets_into_no_log(store: Store, log, tmp_path):
    """Through every door, accepted and refused, with a defect and with the database away: not a word of it."""
    service = Service(store, with_settings(api={"auth": True}), oracle=Says(), patience=Patience(stream=0.05))
    secret = service.key("jobs", "admin")
    body = {"type": "embedding", "params": {"texts": [CANARY]}}
    async with service.client(secret) as client:
        id_ = (await client.post("/api/v1/jobs", json=body)).json()["job_id"]
        worker = Worker(client, claim(store, id_))
        await worker.begin()
        await worker.say("progress", text=CANARY, progress={"at": CANARY})
        await worker.complete(result={**RESULT, "embeddings": [[CANARY]]})
        again = Worker(client, claim(store, id_), id="w-2")
        await again.begin()
        await again.fail("error", message=CANARY)
        for wrong in (
            {**body, "priority": CANARY},
            {"type": CANARY, "params": {}},
            {"type": "embedding", "params": {CANARY: 1}},
        ):
            await client.post("/api/v1/jobs", json=wrong)
        await client.post("/api/v1/jobs/sync?timeout=0.01", json=body)
        await client.post("/api/v1/jobs", content=CANARY, headers={"content-type": "application/json"})
        await client.post("/v1/embeddings", json={"model": "hash", "input": f"crash {CANARY}"})
        await client.get(f"/api/v1/jobs/{CANARY}")
        await client.get(f"/api/v1/jobs?cursor={CANARY}", headers={"Last-Event-ID": CANARY, "X-Request-ID": "r"})
        for path in ("events", "why"):
            await client.get(f"/api/v1/jobs/{id_}/{path}", headers={"Last-Event-ID": "1000"})
        headers = {"X-Worker-Token": WORKER_TOKEN}
        await client.get("/api/v1/workers/p/next-job?wait=0&types=embedding", headers=headers)
        with sqlite3.connect(tmp_path / "grid.db") as database:
            database.execute("DROP TABLE jobs")
        database.close()
        answer = await client.post("/api/v1/jobs", json=body)
        assert answer.status_code in (500, 503)
    written = log.getvalue()
    assert CANARY not in written
    assert secret not in written
    assert WORKER_TOKEN not in written
    events = {line["event"] for line in lines(log)}
    assert events >= {"http.request", "job.accepted", "job.attempt_failed", "job.invalid_result"}, "it did log"


def test_an_exception_is_told_by_its_place_not_by_its_words(log):
    try:
        try:
            raise ValueError(CANARY)
        except ValueError as error:
            raise RuntimeError(f"parameters: {CANARY}") from error
    except RuntimeError:
        logger("idlegrid.test").exception("it.failed", job_id="j")
        logging.getLogger("a.library").exception("Exception in ASGI application")
    assert CANARY not in log.getvalue()
    ours, theirs = lines(log)
    for line in (ours, theirs):
        assert (line["exception"], line["causes"]) == ("RuntimeError", ["ValueError"])
        assert line["frames"][-1].endswith("test_an_exception_is_told_by_its_place_not_by_its_words")
    assert ours["job_id"] == "j"
    assert theirs["logger"] == "a.library"


def test_without_configuration_nothing_is_printed(capsys):
    logger("idlegrid.quiet").info("something", value=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""

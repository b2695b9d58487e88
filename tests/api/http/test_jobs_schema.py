"""The OpenAPI document: precise enough that a machine can try everything it allows, and nothing breaks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import uvicorn
from jobs_service import SECRET, WORKER_TOKEN, Patience, Service, with_settings

from idlegrid.api.http.problems import KINDS
from idlegrid.grid import lockout
from idlegrid.grid.store import Store, open_store


def documented(app) -> dict:
    return {path: ops for path, ops in app.openapi()["paths"].items() if path.startswith("/api/")}


def test_every_answer_has_a_model(service: Service):
    for path, operations in documented(service.app()).items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                contents = response.get("content", {})
                where = (method, path, status)
                if int(status) >= 400:
                    assert list(contents) == ["application/problem+json"], where
                    codes = [word.strip("` ") for word in response["description"].split(",")]
                    assert all(KINDS[code].status == int(status) for code in codes), where
                elif status != "204":
                    schema = next(iter(contents.values()))["schema"]
                    assert "$ref" in schema or schema["properties"].keys() == {"id", "event", "data", "retry"}, where


def test_every_route_says_what_opens_it_and_what_refuses(service: Service):
    for path, operations in documented(service.app()).items():
        for method, operation in operations.items():
            assert operation["security"], (method, path)
            assert {"401", "422", "500", "503"} <= operation["responses"].keys(), (method, path)


def test_the_document_is_the_same_every_time(service: Service):
    assert json.dumps(service.app().openapi()) == json.dumps(service.app().openapi())


SECONDS = 20
CHECKS = (
    "status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,"
    "negative_data_rejection,missing_required_header,unsupported_method,allow_header_conformance,ignored_auth"
)
WAITING = {(503, "/api/v1/jobs/sync"), (504, "/api/v1/jobs/sync")}
"""What a call answers that waits for a worker, where there is none."""


@pytest.mark.slow
async def test_schemathesis_finds_nothing(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Everything that the document allows and much that it doesn't, for half a minute: no answer that isn't in it.

    On PostgreSQL, which is the pickier one: it takes no NUL in a text, and no number that is too large.
    """
    for name in ("FAILURES", "FAILURES_OF_ADDRESS"):  # it fails on purpose all the time, from one address
        monkeypatch.setattr(lockout, name, 10**9)
    with open_store(postgres_url, secret=lambda: SECRET) as store:
        await attack(store, tmp_path)


async def attack(store: Store, tmp_path: Path) -> None:
    """Run schemathesis against a service over this store."""
    settings = with_settings(api={"auth": True, "max_body_mb": 1})
    service = Service(store, settings, patience=Patience(sync=0.02, pull=0.02, stream=0.05, heartbeat=0.02, look=0.01))
    key = service.key("jobs", "admin", "nodes", requests_per_minute=10_000_000)
    app, answers = service.app(), Counter[tuple[int, str]]()

    async def counted(scope, receive, send) -> None:
        async def told(message) -> None:
            if message["type"] == "http.response.start":
                answers[message["status"], scope["path"]] += 1
            await send(message)

        await app(scope, receive, told)

    server = uvicorn.Server(uvicorn.Config(counted, port=0, log_level="critical", ws="none", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    command = [Path(sys.executable).parent / "st", "run", f"http://127.0.0.1:{port}/openapi.json"]
    command += ["--max-time", SECONDS, "--include-path-regex", "^/api/", "--checks", CHECKS, "--no-color"]
    command += [
        "-H",
        f"X-API-Key: {key}",
        "-H",
        f"X-Worker-Token: {WORKER_TOKEN}",
        "--continue-on-failure",
        "--seed",
        1,
    ]
    try:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said = (await process.communicate())[0].decode()
    finally:
        server.should_exit = True
        await serving
    broken = [answer for answer in answers if answer[0] >= 500 and answer not in WAITING]
    assert not broken
    assert process.returncode == 0, said
    assert sum(answers.values()) > 50
    assert {200, 201, 422} <= {status for status, _ in answers}, "it got through the doors"

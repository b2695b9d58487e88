"""`idlegrid up`: everything on this machine, as a real process."""

from __future__ import annotations

import httpx
import psutil
import pytest

pytestmark = pytest.mark.slow


def test_up_serves_until_it_is_stopped(start):
    program = start("up", "--workers", "1", "--port", "0", "--region", "oceania", IDLEGRID_SCHEDULER_PORT="0")
    address = program.line(r"^scheduler at (tcp://127\.0\.0\.1:\d+) with 1 worker$")[1]
    page = program.line(r"^page      at (http://127\.0\.0\.1:\d+/grid)$")[1]
    url = program.line(r"^API       at (http://127\.0\.0\.1:\d+)/v1 ")[1]
    assert httpx.get(f"{url}/readyz").status_code == 200, "what is announced answers"
    assert httpx.get(page, timeout=30).status_code == 200
    body = {"model": "minilm", "input": ["one", "two"]}
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=90).json()
    assert [len(row["embedding"]) for row in answer["data"]] == [384, 384]

    port = address.rpartition(":")[2]
    second = start("up", "--port", "0", IDLEGRID_SCHEDULER_PORT=port)
    second.line(rf"^error: port {port} of 127\.0\.0\.1 is taken: is a grid running already\?")
    assert second.end() == 1
    assert len(second.output) == 1

    workers = program.children()
    program.stop()
    program.line("stopping: open requests are answered first")
    assert program.end() == 0
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert len(program.output) == 4, program.output


def test_a_region_that_does_not_exist(start):
    program = start("up", "--region", "mars", IDLEGRID_SCHEDULER_PORT="0")
    program.line("^error: unknown region 'mars'; known: asia-east")
    assert program.end() == 1


def test_an_api_without_a_grid(start):
    program = start("api", "--scheduler", "tcp://127.0.0.1:1", "--port", "0")
    program.line("^error: no grid answers at tcp://127.0.0.1:1")
    assert program.end() == 1

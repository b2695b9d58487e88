"""A service that is killed while it works on a batch, again and again: every request is in the output exactly once."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from forked import forking

pytestmark = pytest.mark.slow

REQUESTS = 300
PATIENCE = 90.0
POINTS = [
    "",
    "batches.part_written",
    "batches.part_added:2",
    "",
    "files.written:3",
    "batches.finalizing",
    "files.written",  # of the output
    "batches.ended",
]
"""Where the process dies, one after the other; empty: at any moment."""


class Service:
    def __init__(self, processes, folder: Path, failpoint: str) -> None:
        import batches_process

        (folder / "port").unlink(missing_ok=True)
        self.process = processes.Process(target=batches_process.run, args=(folder, failpoint))
        self.process.start()
        deadline = time.monotonic() + PATIENCE
        while not (folder / "port").exists():
            assert time.monotonic() < deadline
            if self.process.exitcode is not None:
                break  # it is past its failpoint already
            time.sleep(0.01)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._port(folder)}", timeout=30)

    @staticmethod
    def _port(folder: Path) -> str:
        return (folder / "port").read_text()

    def status(self, batch: str) -> dict:
        return self.client.get(f"/v1/batches/{batch}").json()

    def end(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.join()


@pytest.fixture
def processes():
    with forking("batches_process", Path(__file__).parent) as processes:
        yield processes


def test_every_request_is_answered_once_whatever_is_killed(processes, tmp_path):
    service, moments = Service(processes, tmp_path, ""), random.Random(3)
    try:
        body = {"method": "POST", "url": "/v1/embeddings"}
        lines = [body | {"custom_id": f"r{n}", "body": {"model": "hash", "input": f"t{n}"}} for n in range(REQUESTS)]
        text = "\n".join(map(json.dumps, lines))
        sent = service.client.post("/v1/files", files={"file": ("in.jsonl", text)}, data={"purpose": "batch"}).json()
        asked = {"input_file_id": sent["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch = service.client.post("/v1/batches", json=asked).json()["id"]
        for point in POINTS:
            if point:
                service.end()
                service = Service(processes, tmp_path, point)
                service.process.join(PATIENCE)
                assert service.process.exitcode == -9, f"nobody came past {point}"
            else:
                time.sleep(moments.uniform(0.2, 0.4))
                service.end()
                service = Service(processes, tmp_path, "")
        service.end()
        service = Service(processes, tmp_path, "")
        deadline = time.monotonic() + PATIENCE
        while (now := service.status(batch))["status"] != "completed":
            assert time.monotonic() < deadline, now
            time.sleep(0.02)
        assert now["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}
        out = service.client.get(f"/v1/files/{now['output_file_id']}/content").text.splitlines()
        assert Counter(json.loads(line)["custom_id"] for line in out) == Counter(f"r{n}" for n in range(REQUESTS))
        while (left := {path.name for path in (tmp_path / "files").rglob("*") if path.is_file()}) != {
            sent["id"],
            now["output_file_id"],
        }:  # what the killed ones left is cleared away
            assert time.monotonic() < deadline, left
            time.sleep(0.02)
    finally:
        service.end()

"""A service that is killed while it works on a batch, again and again: every request is in the output exactly once."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from idlegrid.grid.failpoints import VARIABLE

pytestmark = pytest.mark.slow

REQUESTS = 300
PATIENCE = 90.0
POINTS = [None, "batches.part_written", "batches.part_added:2", "files.written", "batches.finalizing"]
"""Where the process dies; None: at any moment."""


class Service:
    def __init__(self, folder: Path, failpoint: str | None) -> None:
        (folder / "port").unlink(missing_ok=True)
        env = os.environ | ({VARIABLE: failpoint} if failpoint else {})
        script = Path(__file__).parent / "batches_process.py"
        self.process = subprocess.Popen([sys.executable, script, folder], env=env)
        deadline = time.monotonic() + PATIENCE
        while not (folder / "port").exists():
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.02)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{(folder / 'port').read_text()}", timeout=30)

    def status(self, batch: str) -> dict:
        return self.client.get(f"/v1/batches/{batch}").json()

    def end(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


def test_every_request_is_answered_once_whatever_is_killed(tmp_path):
    service = Service(tmp_path, None)
    try:
        lines = [
            {
                "custom_id": f"r{n}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "hash", "input": f"t{n}"},
            }
            for n in range(REQUESTS)
        ]
        text = "\n".join(map(json.dumps, lines))
        sent = service.client.post("/v1/files", files={"file": ("in.jsonl", text)}, data={"purpose": "batch"}).json()
        asked = {"input_file_id": sent["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        batch = service.client.post("/v1/batches", json=asked).json()["id"]
        moments = random.Random(3)
        for point in POINTS:
            if point is None:
                time.sleep(moments.uniform(0.3, 0.8))
            else:
                service.end()
                service = Service(tmp_path, point)
                assert service.process.wait(PATIENCE) == -9, f"nobody came past {point}"
            service.end()
            service = Service(tmp_path, None)
        deadline = time.monotonic() + PATIENCE
        while (now := service.status(batch))["status"] != "completed":
            assert time.monotonic() < deadline, now
            time.sleep(0.05)
        assert now["request_counts"] == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}
        out = service.client.get(f"/v1/files/{now['output_file_id']}/content").text.splitlines()
        assert Counter(json.loads(line)["custom_id"] for line in out) == Counter(f"r{n}" for n in range(REQUESTS))
    finally:
        service.end()

"""Direct mode of a real worker process with a real model: used, killed, started again, handed back."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))  # helpers of other tests
sys.path.insert(0, str(Path(__file__).parents[1] / "http"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from direct_worker import PATIENCE, credentials
from jobs_service import SECRET, Service
from live_service import claim, complete, serving

from idlegrid.api import GridClient
from idlegrid.api.client import Unavailable
from idlegrid.grid.credentials import VARIABLE
from idlegrid.grid.donors import Donor
from idlegrid.grid.store import Beat, By, NewWorker, Store, open_store
from idlegrid.scheduler_plugins.machine import VARIABLE as DONOR
from idlegrid.scheduler_plugins.machine import to_variable

pytestmark = pytest.mark.slow
MODEL = "all-MiniLM-L6-v2"
QUEUED = {"embeddings": [[0.6, 0.8]], "dimensions": 2, "usage": {"prompt_tokens": 4, "total_tokens": 4}}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path}/jobs.db", secret=lambda: SECRET) as store:
        store.upgrade()
        yield store


@contextmanager
def worker_process(url: str, folder: Path, worker_id: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker that asks for jobs, and offers direct mode; its process, and where it listens."""
    donor = Donor(id=worker_id, name="attic", region="europe-west", supported_types=frozenset({"embedding"}))
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "OMP_NUM_THREADS": "1",
        VARIABLE: str(folder / "credentials.json"),
        DONOR: to_variable(donor),
        "GPU_DIRECT_ENABLED": "true",
        "GPU_DIRECT_HOST": "127.0.0.1",
        "GPU_DIRECT_PORT": "0",
    }
    command = [sys.executable, "-m", "idlegrid.api.pull_process", url]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        where = next(found[1] for line in lines if (found := re.search(r"direct mode at (\S+)", line)))
        timer.cancel()
        yield process, where
    finally:
        timer.cancel()
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()


def announce(store: Store, worker_id: str, url: str) -> None:
    """The worker is here, and clients reach it there."""
    with store._database.write() as session:
        session.run("UPDATE workers SET direct_url = :url WHERE id = :id", {"url": url, "id": worker_id})
    store.donors.heartbeat(Beat(worker_id=worker_id, status="online", incarnation="i"))


@contextmanager
def queue_works(store: Store) -> Iterator[None]:
    """Another worker does what comes through the queue."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            for job in store.jobs.peek(types=["embedding"], limit=1):
                complete(store, claim(store, job.id), QUEUED)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def test_a_worker_process_is_used_killed_and_started_again(tmp_path, store):
    _, token = store.enrolments.create(3600, None, By("tests"))
    new = NewWorker(name="attic", region="europe-west", supported_types=frozenset({"embedding"}))
    made = store.credentials.register(token, new)
    credentials(made.worker_id, made.signing_secret).save(tmp_path / "credentials.json")
    query = {"job_type": "embedding", "model": MODEL}
    with serving(Service(store)) as url, GridClient(url, direct=True) as only, GridClient(url, direct="auto") as auto:
        with worker_process(url, tmp_path, made.worker_id) as (process, where):
            announce(store, made.worker_id, where)
            assert only.embed(["a lease"], model=MODEL).dimensions == 384
            near = httpx.get(f"{url}/api/v1/jobs/direct/nearest", params=query).json()
            body, head = {"texts": ["x"], "model": MODEL}, {"X-Ticket": near["ticket"]}
            answers = [
                httpx.post(f"{where}/v1/direct/embedding", json=body, headers=head, timeout=PATIENCE) for _ in range(2)
            ]
            assert [answer.status_code for answer in answers] == [200, 401]
            assert store.jobs.stats().total_queued == 0
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
            with queue_works(store):
                assert auto.embed(["a lease"], model=MODEL).dimensions == 2
            with pytest.raises(Unavailable):
                only.embed(["a lease"], model=MODEL)
        with worker_process(url, tmp_path, made.worker_id) as (_, where):
            again = httpx.post(f"{where}/v1/direct/embedding", json=body, headers=head, timeout=PATIENCE)
            assert (again.status_code, again.json()["code"]) == (401, "invalid_ticket")

"""Donors that lie about their limits, their memory, the size of results or what is in them, to a service in a process
of its own: each is answered, the job is done by another, the liar is relied on less, and the service stays small.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import psutil
import pytest
from machines import Machines, until

from idlegrid.api.donor.server import Joined, credentials_of
from idlegrid.api.ports import Reserved
from idlegrid.grid.capability import HEADER
from idlegrid.grid.credentials import Signer
from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.reliability import NEUTRAL
from idlegrid.grid.store import NewJob, Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LEASE = 4.0
MB = 1_000_000
GROWTH = 300 * MB
"""Of the service's memory, while it is sent many times as much."""
GOOD = {"embeddings": [[0.6, 0.8], [0.8, 0.6]], "dimensions": 2, "usage": {"prompt_tokens": 4, "total_tokens": 4}}
TEXTS = {"texts": ["a lease", "a fence"]}
BEYOND = "1e999"
"""A number in JSON, and none in any float."""
Job = dict[str, Any]


class Speaker:
    """A machine that registered, and says whatever the test wants: signed, as it must be."""

    def __init__(self, machines: Machines, name: str, **facts: Any) -> None:
        body = {"name": name, "region": "europe-west", "gpu_model": None, "supported_types": ["trial", "embedding"]}
        token = {"X-Enrolment-Token": machines.token()}
        answer = httpx.post(f"{machines.url}/api/v1/workers/register", json=body | facts, headers=token, timeout=30)
        assert answer.status_code == 201, answer.text
        held = credentials_of(Joined.model_validate(answer.json()), machines.url)
        file = machines.folder / f"{name}.json"
        held.save(file)
        self.id, self.name = held.worker_id, name
        self._path = f"{machines.url}/api/v1/workers/{self.id}"
        self._signer = Signer(file)
        self._http = httpx.Client(auth=self._signer, trust_env=False, timeout=60)
        self.beat()

    def close(self) -> None:
        self._http.close()

    def beat(self, **more: Any) -> None:
        body = {"status": "online", "incarnation": "i-1", "config_version": 1} | more
        assert self._http.post(f"{self._path}/heartbeat", json=body).status_code == 200

    def ask(self, wait: float = 0.5) -> Job | None:
        answer = self._http.get(f"{self._path}/next-job", params={"wait": wait})
        assert answer.status_code in (200, 204), answer.text
        return answer.json() if answer.status_code == 200 else None

    def wait_for(self, job_id: str) -> Job:
        found = until(lambda: job if (job := self.ask(5)) is not None else None, lambda: f"{self.name} gets nothing")
        assert found["job_id"] == job_id
        return found  # type: ignore[no-any-return]

    def begin(self, job: Job) -> None:
        word = {"fence": job["fence"], "incarnation": "i-1", "begin": True}
        assert self._say(job, "progress", json.dumps(word).encode()).status_code == 200

    def complete(self, job: Job, result: Any) -> httpx.Response:
        word = {"fence": job["fence"], "incarnation": "i-1", "success": True, "result": result}
        return self._say(job, "complete", json.dumps(word).replace(f'"{BEYOND}"', BEYOND).encode())

    def fail(self, job: Job, code: str) -> httpx.Response:
        error = {"code": code, "message": "CUDA out of memory", "retry": True}
        word = {"fence": job["fence"], "incarnation": "i-1", "success": False, "error": error}
        return self._say(job, "complete", json.dumps(word).encode())

    def send(self, job: Job, megabytes: int, *, told: bool) -> int:
        """So much, said before or not; the status of the answer, 0 when the service hung up first."""
        piece, url = b" " * MB, f"{self._path}/jobs/{job['job_id']}/complete"
        headers = {HEADER: job["attempt_token"]} | self._signer.headers("POST", url)
        content = piece * megabytes if told else iter([piece] * megabytes)
        try:
            return httpx.post(url, content=content, headers=headers, trust_env=False, timeout=60).status_code
        except httpx.TransportError:
            return 0

    def _say(self, job: Job, door: str, body: bytes) -> httpx.Response:
        headers = {HEADER: job["attempt_token"], "Content-Type": "application/json"}
        return self._http.post(f"{self._path}/jobs/{job['job_id']}/{door}", content=body, headers=headers)


@dataclass
class Here:
    """A service, its store, and who speaks to it."""

    machines: Machines
    store: Store
    process: psutil.Process
    speakers: list[Speaker] = field(default_factory=list)

    def joins(self, name: str, **facts: Any) -> Speaker:
        self.speakers.append(Speaker(self.machines, name, **facts))
        return self.speakers[-1]

    def job(self, type_: str, params: Any) -> str:
        return self.store.jobs.accept(NewJob(type=type_, params=params)).job.id

    def outcomes(self, job_id: str, who: Speaker) -> list[str | None]:
        return [one.outcome for one in self.store.jobs.attempts(job_id) if one.worker_id == who.id]

    def score(self, who: Speaker) -> float:
        self.store.sessions.count()
        return self.store.sessions.rate(self.store.sessions.histories(), datetime.now(UTC))[who.id].success


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    machines = Machines(tmp_path_factory.mktemp("liars"))
    database = f"sqlite:///{machines.folder}/jobs.db"
    with contextlib.ExitStack() as stack:
        api, scheduler = (stack.enter_context(closing(Reserved("127.0.0.1", 0, "--port"))) for _ in range(2))
        store = stack.enter_context(open_store(database))
        stack.callback(machines.close)
        store.upgrade()
        machines.url = f"http://127.0.0.1:{api.port}"
        machines.environment |= {
            "IDLEGRID_DATABASE_URL": database,
            "IDLEGRID_API_PORT": str(api.port),
            "IDLEGRID_SCHEDULER_PORT": str(scheduler.port),
            "IDLEGRID_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{scheduler.port}",
            "IDLEGRID_JOBS_LEASE": f"{LEASE:g}",
            "IDLEGRID_JOBS_MAX_RESULT_MB": "1",
        }
        machines.run("scheduler", "scheduler")
        until(lambda: _listens(scheduler.port), lambda: machines.said("scheduler"))
        process = machines.run("api", "api")
        until(lambda: _answers(machines.url) or process.poll() is not None, lambda: machines.said("api"))
        here = Here(machines, store, psutil.Process(process.pid))
        yield here
        for speaker in here.speakers:
            speaker.close()


@pytest.fixture(scope="module")
def honest(here: Here) -> Speaker:
    return here.joins("honest")


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def done_by(here: Here, honest: Speaker, job_id: str, result: Any) -> None:
    job = honest.wait_for(job_id)
    honest.begin(job)
    assert honest.complete(job, result).status_code == 200
    found = here.store.jobs.get(job_id)
    assert found is not None
    assert (found.status, found.worker_id) == (JobStatus.COMPLETED, honest.id)


def test_about_its_limits(here: Here) -> None:
    """It said that it runs one job at a time and three an hour, and asks for five at once."""
    liar = here.joins("greedy", config={"max_concurrent_jobs": 1, "max_jobs_per_hour": 3})
    jobs = [here.job("trial", {"value": n}) for n in range(6)]
    for _ in range(3):
        with ThreadPoolExecutor(5) as pool:
            given = [one for one in pool.map(lambda _: liar.ask(1.0), range(5)) if one is not None]
        assert len(given) == 1, "one, whatever it asks for"
        liar.begin(given[0])
        assert liar.ask() is None, "nor a second while the first runs"
        assert liar.complete(given[0], {"value": 1}).status_code == 200
    assert liar.ask() is None, "nor a fourth within the hour"
    trusted = here.joins("untold", config={"max_concurrent_jobs": 8})
    with ThreadPoolExecutor(5) as pool:
        rest = [one for one in pool.map(lambda _: trusted.ask(1.0), range(5)) if one is not None]
    assert len(rest) == 3, "the control: who may have many gets all that is left"
    for job in rest:
        trusted.begin(job)
        assert trusted.complete(job, {"value": 1}).status_code == 200
    assert {here.store.jobs.get(one).status for one in jobs} == {JobStatus.COMPLETED}


def test_about_its_memory(here: Here, honest: Speaker) -> None:
    """It claims 80 GB, is believed, fails, and does not get the same job again."""
    liar = here.joins("boaster", gpu_model="H100", gpu_memory_gb=80.0, gpu_count=1)
    job_id = here.job("trial", {"gpu_memory_gb": 60.0})
    job = liar.wait_for(job_id)
    liar.begin(job)
    liar.beat(gpu_memory_used_gb=9_999.0)
    assert liar.fail(job, "error").status_code == 200
    assert liar.ask() is None
    done_by(here, honest, job_id, {"value": 0})
    assert here.outcomes(job_id, liar) == ["failed"]
    assert here.score(liar) < NEUTRAL < here.score(honest)


LIES: dict[str, Callable[[], Any]] = {
    "no result at all": dict,
    "another type's": lambda: {"text": "hello"},
    "words for numbers": lambda: GOOD | {"embeddings": [["a"], ["b"]]},
    "no number": lambda: GOOD | {"embeddings": [[float("nan"), 0.0], [0.0, 1.0]]},
    "no finite number": lambda: GOOD | {"embeddings": [[BEYOND, 0.0], [0.0, 1.0]]},
    "too few vectors": lambda: GOOD | {"embeddings": [[0.6, 0.8]]},
    "too many vectors": lambda: GOOD | {"embeddings": [[0.6, 0.8]] * 3},
    "vectors of two lengths": lambda: GOOD | {"embeddings": [[0.6, 0.8], [0.6]]},
    "another dimension than it says": lambda: GOOD | {"dimensions": 3},
}


@pytest.mark.parametrize("lie", LIES)
def test_about_what_it_computed(here: Here, honest: Speaker, lie: str) -> None:
    liar = here.joins(f"liar-{sorted(LIES).index(lie)}")
    job_id = here.job("embedding", TEXTS)
    job = liar.wait_for(job_id)
    liar.begin(job)
    answer = liar.complete(job, LIES[lie]())
    assert answer.status_code in (400, 422), answer.text
    if answer.status_code == 400:  # not even JSON: the attempt goes on, and is lost when nothing better comes
        assert answer.json()["code"] == "invalid_json"
        job = honest.wait_for(job_id)
        outcome = "lost"
        honest.begin(job)
        assert honest.complete(job, GOOD).status_code == 200
    else:
        assert answer.json()["code"] == "invalid_result"
        assert liar.ask() is None
        done_by(here, honest, job_id, GOOD)
        outcome = "failed"
    assert here.outcomes(job_id, liar) == [outcome]
    assert here.store.jobs.get(job_id, with_result=True).result == GOOD
    assert here.score(liar) < NEUTRAL < here.score(honest)


def test_about_the_size_of_its_result(here: Here, honest: Speaker) -> None:
    """It sends 0.8 GB where 1 MB may come, and does not always say so first: refused unread."""
    liar = here.joins("flood")
    job_id = here.job("trial", {"value": 5})
    job = liar.wait_for(job_id)
    liar.begin(job)
    before, most, over = here.process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, here.process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda n: liar.send(job, 40, told=n % 2 == 0), range(20)))
    finally:
        over.set()
        watcher.join()
    assert set(answers) <= {413, 0}, answers
    assert most - before < GROWTH
    print(f"\n0.8 GB in {time.monotonic() - began:.1f} s: the service grew by {(most - before) / MB:.0f} MB")
    refused = liar.complete(job, {"value": 5, "padding": "x" * 3 * MB})  # as large as a request may be
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_result")
    done_by(here, honest, job_id, {"value": 5})
    assert here.outcomes(job_id, liar) == ["failed"]
    assert here.score(liar) < NEUTRAL < here.score(honest)

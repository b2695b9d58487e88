"""Direct mode of the SDK, on both clients: a real service, real workers' endpoints, and each way in which they fail."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from direct_worker import PATIENCE, Refusing, WordsJob, credentials, direct_worker
from jobs_service import SECRET, Service
from live_service import claim, complete, serving

from idlegrid.api.client import GridError, Unavailable, WaitTimedOut
from idlegrid.grid.donors import Load
from idlegrid.grid.job_types import ALONE
from idlegrid.grid.store import Beat, By, NewWorker, Store, open_store

pytestmark = pytest.mark.slow
RESULT = {"embeddings": [[1.0, 0.0]], "dimensions": 2, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
QUEUED = {"embeddings": [[0.6, 0.8]], "dimensions": 2, "usage": {"prompt_tokens": 4, "total_tokens": 4}}


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    with open_store(sqlite_url, secret=lambda: SECRET) as store:
        yield store


class Grid:
    """A service, and workers that offer direct mode to its clients."""

    def __init__(self, store: Store, folder: Path, stack: ExitStack) -> None:
        self.store, self._folder, self._stack = store, folder, stack
        self.url = stack.enter_context(serving(Service(store)))
        self.queued = 0

    def worker(self, name: str = "attic", *, url: str | None = None, secret: str | None = None, **options: Any) -> Any:
        """A registered worker. `url`: where it says that it is, in place of where it is; `secret`: not its own."""
        _, token = self.store.enrolments.create(3600, None, By("tests"))
        new = NewWorker(name=name, region="europe-west", supported_types=frozenset({"embedding"}))
        made = self.store.credentials.register(token, new)
        held = credentials(made.worker_id, secret or made.signing_secret)
        worker = self._stack.enter_context(direct_worker(self._folder / name, held, **options))
        place = {"url": url or worker.url, "id": made.worker_id}
        with self.store._database.write() as session:
            session.run("UPDATE workers SET direct_url = :url WHERE id = :id", place)
        self.store.donors.heartbeat(Beat(worker_id=made.worker_id, status="online", incarnation="i"))
        return worker

    def works(self, stop: threading.Event) -> None:
        """Somebody does what comes through the queue."""
        while not stop.is_set():
            for job in self.store.jobs.peek(types=["embedding"], limit=1):
                complete(self.store, claim(self.store, job.id), QUEUED)
                self.queued += 1
            stop.wait(0.02)


@pytest.fixture
def grid(store: Store, tmp_path: Path) -> Iterator[Grid]:
    stop = threading.Event()
    with ExitStack() as stack:
        grid = Grid(store, tmp_path, stack)
        thread = threading.Thread(target=grid.works, args=(stop,))
        thread.start()
        yield grid
        stop.set()
        thread.join(PATIENCE)


class Vectors(WordsJob):
    """Gives what an embedding job gives, or something else."""

    def __init__(self, result: Any = RESULT, run: Callable[[], object] = lambda: None) -> None:
        super().__init__("embedding")
        self.result, self.before, self.tries = result, run, 0

    def run(self, params: Any, context: Any = ALONE) -> Any:
        self.tries += 1
        self.before()
        super().run(params, context)
        return Raw(self.result)


class Raw:
    """A result that is sent as it is."""

    usage = None

    def __init__(self, document: Any) -> None:
        self._document = document

    def model_dump_json(self) -> str:
        return self._document if isinstance(self._document, str) else json.dumps(self._document)


async def embed(client: Any, **options: Any) -> list[list[float]]:
    return [list(vector) for vector in (await client.call("embed", ["a lease"], **options)).embeddings]


DIRECT, QUEUE = RESULT["embeddings"], QUEUED["embeddings"]


async def test_calls_go_to_the_worker_and_past_the_queue(connect, grid):
    kind = Vectors()
    worker = grid.worker(kinds={"embedding": kind})
    client = connect(grid.url, direct="auto")
    assert [await embed(client) for _ in range(3)] == [DIRECT] * 3  # each with a ticket of its own
    assert (kind.runs, grid.queued, len(worker.places.left)) == (3, 0, 3)


async def test_it_is_off_unless_the_caller_allows_it(connect, grid):
    kind = Vectors()
    grid.worker(kinds={"embedding": kind})
    assert await embed(connect(grid.url)) == QUEUE
    assert await embed(connect(grid.url, direct="auto"), priority=1) == QUEUE
    assert await embed(connect(grid.url, direct="auto"), idempotency_key="one") == QUEUE
    assert await embed(connect(grid.url, direct="auto"), region="asia-east", allow_cross_region=False) == QUEUE
    assert kind.runs == 0


def _fail() -> None:
    raise RuntimeError("it broke")


def nobody_there() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.mark.parametrize(
    "options",
    [
        {"url": nobody_there()},
        {"secret": "not the worker's"},
        {"endpoint": Refusing},
        {"kinds": {}},
        {"kinds": {"embedding": Vectors(run=_fail)}},
    ],
    ids=["unreachable", "another's secret", "no ticket is good", "no such type", "it fails"],
)
@pytest.mark.parametrize("connect", ["async"], indirect=True)
async def test_until_an_answer_began_the_queue_takes_over(connect, grid, options):
    grid.worker(**({"kinds": {"embedding": Vectors()}} | options))
    assert await embed(connect(grid.url, direct="auto")) == QUEUE
    assert grid.queued == 1
    with pytest.raises(Unavailable, match="direct mode could not be used"):
        await embed(connect(grid.url, direct=True))
    assert grid.queued == 1


async def test_an_owner_that_paused_falls_back(connect, grid):
    worker = grid.worker(kinds={"embedding": Vectors()})
    worker.places.load = Load(paused=True)
    assert await embed(connect(grid.url, direct="auto")) == QUEUE
    worker.places.load = Load()
    assert await embed(connect(grid.url, direct="auto")) == DIRECT


@pytest.mark.parametrize("connect", ["async"], indirect=True)
async def test_tls_that_can_not_be_trusted_falls_back(connect, grid):
    grid.worker(kinds={"embedding": Vectors()}, tls=True)
    assert await embed(connect(grid.url, direct="auto")) == QUEUE


@pytest.mark.parametrize("connect", ["async"], indirect=True)
async def test_a_donor_that_names_somebody_elses_address_gets_nothing_sent_there(connect, grid):
    """The other endpoint hears the challenge, and nothing of the request."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(PATIENCE)

        def listen() -> None:
            one, _ = other.accept()
            heard.append(one.recv(65536))
            one.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n" + b'{"proof":"0000"}')
            one.close()

        victim = threading.Thread(target=listen)
        victim.start()
        grid.worker(kinds={"embedding": Vectors()}, url=f"http://127.0.0.1:{other.getsockname()[1]}")
        assert await embed(connect(grid.url, "a-key", direct="auto")) == QUEUE
        victim.join(PATIENCE)
    assert heard[0].startswith(b"GET /v1/direct/proof?challenge=")
    assert b"a lease" not in heard[0]
    assert b"a-key" not in heard[0]
    assert b"x-ticket" not in heard[0].lower()


async def test_a_worker_that_failed_is_avoided_and_the_next_one_asked(connect, grid):
    broken, good = Vectors(run=_fail), Vectors()
    grid.worker("broken", kinds={"embedding": broken})
    client = connect(grid.url, direct="auto")
    assert await embed(client) == QUEUE
    grid.worker("good", kinds={"embedding": good})
    while await embed(client) == QUEUE:  # the service looks at its workers once a second
        pass
    assert (good.runs, broken.tries) == (1, 1)


@pytest.mark.parametrize(
    "result",
    ["[1, 2]", "nonsense", '{"embeddings": 7}', '{"embeddings": [[NaN]], "dimensions": 1, "usage": {}}'],
)
@pytest.mark.parametrize("connect", ["async"], indirect=True)
async def test_once_an_answer_began_nothing_is_done_twice(connect, grid, result):
    grid.worker(kinds={"embedding": Vectors(result)})
    with pytest.raises(GridError, match="no result"):
        await embed(connect(grid.url, direct="auto"))
    assert grid.queued == 0


async def test_a_call_ends_when_its_time_is_over(connect, grid):
    over = threading.Event()
    grid.worker(kinds={"embedding": Vectors(run=lambda: over.wait(PATIENCE))})
    try:
        with pytest.raises(WaitTimedOut, match="nothing lives on"):
            await embed(connect(grid.url, direct="auto"), wait=0.5)
        assert grid.queued == 0
    finally:
        over.set()


async def test_a_grid_without_such_workers_is_asked_once_in_a_while(connect, grid):
    client = connect(grid.url, direct="auto")
    assert [await embed(client) for _ in range(2)] == [QUEUE] * 2
    with pytest.raises(Unavailable, match="direct mode could not be used"):
        await embed(connect(grid.url, direct=True))

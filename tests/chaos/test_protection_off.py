"""The controls of R3, R4, R5, R7, R8 and R13: the same fault with the protection on and off, side by side.

Off, the check must fail, else it shows nothing. Protections are taken away by subclasses and patches of these tests;
nothing in the product can switch them off.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from postgres import PostgresServer

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines" / "dispatch"))  # a service that a thread can talk to

sys.path.insert(0, str(Path(__file__).parents[1] / "api" / "client"))  # and one on loopback
sys.path.insert(0, str(Path(__file__).parents[1] / "api" / "http"))

import light
from distributed import Client as DaskClient
from jobs_service import WORKER_TOKEN, Service, with_settings
from live_service import serving
from service import Service as Doorway

from idlegrid.api import supervision
from idlegrid.api.ports import Reserved
from idlegrid.api.supervision import Part, Supervised
from idlegrid.grid.donors import Donor
from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import NewJob, open_store
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.runner import run_attempt
from idlegrid.pipelines.dispatch.spool import Spool
from idlegrid.pipelines.dispatch.work_order import Identity
from idlegrid.scheduler_plugins.machine import VARIABLE, to_variable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
DEADLINE = 90.0
BOTH = pytest.mark.parametrize("protection", ["on", "off"])
LIGHT = Path(__file__).parent / "light.py"


@pytest.fixture(scope="module")
def server():
    with PostgresServer() as server:  # without fsync: what is killed here are processes, not the machine
        yield server


@pytest.fixture
def url(server, request):
    name = f"control_{abs(hash(request.node.name)):x}"
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    with contextlib.closing(open_store(server.url(name), pool_size=1)) as store:
        store.upgrade()
    return server.url(name)


@pytest.fixture
def store(url):
    with open_store(url, pool_size=4, timeout=5.0) as store:
        yield store


def wait(condition):
    """What the condition gives, once it gives something."""
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, "what was waited for never came"
        time.sleep(0.02)
    return found


def outcomes(store, job_id):
    return [attempt.outcome for attempt in store.jobs.attempts(job_id)]


# -- R3 and R4: stock workers, a scheduler that dies ------------------------------------------------------------------


class Over(Exception):
    """Code 0 was taken for an end."""


class Believing(Supervised):
    """A supervisor as most are: what ends with code 0 has ended."""

    def _judge(self, code):
        if code == 0:
            raise Over
        super()._judge(code)


def dask_part(what, *words):
    code = f"from distributed.cli import dask_{what} as c; c.main({list(words)!r})"
    environment = {"PYTHONPATH": str(LIGHT.parent), "DASK_LOGGING__DISTRIBUTED": "critical"}
    return Part(f"stock {what}", (sys.executable, "-c", code), environment, grace=1.0, must_start=False)


async def until(condition):
    async with asyncio.timeout(DEADLINE):
        while not (found := await condition() if inspect.iscoroutinefunction(condition) else condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return found


async def names(place):
    """The workers that the scheduler knows; none while it is away."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(10), DaskClient(f"tcp://{place.host}:{place.port}", asynchronous=True) as client:
            return {row["name"] for row in (await client.scheduler.identity())["workers"].values()}
    return set()


@contextlib.asynccontextmanager
async def running(*parts):
    """All of them until the block ends."""
    stop = asyncio.Event()
    runs = [asyncio.create_task(part.run(stop)) for part in parts]
    try:
        yield runs
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), DEADLINE)


async def test_r3_r4_exit_code_0_is_no_end_and_a_future_is_no_promise(tmp_path, monkeypatch):
    """One death of a scheduler. R3's control: who believes exit code 0 loses an idle worker for good. R4's: a result
    that only a future has is lost with the scheduler, though it was computed to its end.
    """
    monkeypatch.chdir(tmp_path)
    place = Reserved("127.0.0.1", 0, "--port")
    address = f"tcp://{place.host}:{place.port}"
    scheduler = Supervised(
        dask_part("scheduler", "--host", place.host, "--port", str(place.port), "--no-dashboard", "--no-show")
    )
    common = ("--no-nanny", "--nthreads", "1", "--no-dashboard")
    kept, busy = (Supervised(dask_part("worker", address, "--name", name, *common)) for name in ("kept", "busy"))
    believed = Believing(dask_part("worker", address, "--name", "believed", *common))
    try:
        async with running(scheduler, kept, busy, believed) as (_, _, _, believing):

            async def all_here():
                return await names(place) == {"kept", "busy", "believed"}

            await until(all_here)
            async with DaskClient(address, asynchronous=True) as client:
                future = client.submit(light.computes, tmp_path, workers=["busy"], key="r4", pure=False)
                await until((tmp_path / "begun").exists)
                os.kill(scheduler.pid, signal.SIGKILL)
                await until(lambda: future.status != "pending")
                await until((tmp_path / "done").exists)
                assert future.status in ("cancelled", "lost"), "its result is nobody's"

            async def kept_is_back():
                return scheduler.starts == 2 and "kept" in await names(place)

            await until(kept_is_back)
            await until(believing.done)
            assert isinstance(believing.exception(), Over), "it ended with code 0"
            assert (believed.starts, kept.starts >= 2) == (1, True)
            assert "believed" not in await names(place)
    finally:
        place.close()


HOLDER = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "open(sys.argv[1], 'a').write(f'{child.pid}\\n')\n"
    "time.sleep(600)"
)
"""A part whose child has the device, as the worker of a nanny does."""


def holders(note):
    """The processes that have the device."""
    noted = [int(line) for line in note.read_text().splitlines()] if note.exists() else []
    return {pid for pid in noted if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}


@BOTH
async def test_r4_two_processes_on_a_device(tmp_path, monkeypatch, protection):
    """Off: what a part leaves behind is not killed before the next one starts."""
    if protection == "off":
        monkeypatch.setattr(supervision, "kill_group", lambda pid: None)
    note = tmp_path / "children"
    part = Supervised(Part("holder", (sys.executable, "-c", HOLDER, str(note)), must_start=False))
    try:
        async with running(part):
            first = await until(lambda: holders(note))
            os.kill(part.pid, signal.SIGKILL)
            await until(lambda: holders(note) - first)
            if protection == "on":
                await until(lambda: not first & holders(note))
            else:
                assert len(holders(note)) == 2
    finally:
        for pid in holders(note):
            os.kill(pid, signal.SIGKILL)


# -- R5 and R7: light workers on PostgreSQL ---------------------------------------------------------------------------


@contextlib.contextmanager
def worker(*words):
    process = subprocess.Popen(
        [sys.executable, LIGHT, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)
        process.stdin.close()
        process.stdout.close()


@BOTH
def test_r5_what_a_frozen_worker_says_late(url, server, store, protection):
    """Off: whoever says that the job is done is believed. The database's own keys are taken away with it."""
    database = url.partition("///")[2] or url.rpartition("@/")[2].partition("?")[0]
    with server.connect(database) as connection:
        if protection == "off":
            connection.execute("ALTER TABLE results DROP CONSTRAINT results_pkey")
            connection.execute("ALTER TABLE usage DROP CONSTRAINT usage_pkey")
        job_id = store.jobs.accept(NewJob(type=light.TYPE)).job.id
        with worker(url, "frozen", protection) as frozen:
            assert frozen.stdout.readline().strip() == job_id
            os.kill(frozen.pid, signal.SIGSTOP)
            second = wait(lambda: light.claim(store, "second", lease=60))
            assert light.complete(store, second)
            os.kill(frozen.pid, signal.SIGCONT)
            print(file=frozen.stdin, flush=True)
            late = frozen.stdout.readline().strip()
        counts = [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("results", "usage")]
    if protection == "on":
        assert (late, counts, outcomes(store, job_id)) == ("refused", [1, 1], ["lost", "completed"])
        assert store.jobs.get(job_id).worker_id == "second"
    else:
        assert (late, counts, outcomes(store, job_id)) == ("taken", [2, 2], ["completed", "completed"])
        assert store.jobs.get(job_id).worker_id == "frozen", "the late one overwrote what a client may have read"


@BOTH
def test_r7_a_job_that_kills(url, store, protection):
    """Off: nobody counts on how many workers it killed."""
    good = [store.jobs.accept(NewJob(type=light.TYPE)).job.id for _ in range(3)]
    bad = store.jobs.accept(NewJob(type=light.TYPE, params={"deadly": True})).job.id
    good += [store.jobs.accept(NewJob(type=light.TYPE)).job.id for _ in range(3)]
    most = 6
    with worker(url, "deadly", protection, most) as lives:
        died = lives.stdout.readline().count("donor")
    job = store.jobs.get(bad)
    if protection == "on":
        assert (died, job.status, job.error_code) == (3, JobStatus.FAILED, "poisoned")
        assert {store.jobs.get(job_id).status for job_id in good} == {JobStatus.COMPLETED}
    else:
        assert (died, job.status) == (most, JobStatus.QUEUED), "it would kill on for ever"


# -- R8: the database goes --------------------------------------------------------------------------------------------


class NoSpool(Spool):
    """Keeps nothing for later."""

    def keep(self, attempt, who, body):
        pass


@BOTH
def test_r8_what_was_computed_while_the_database_was_away(site, url, server, store, tmp_path, protection):
    doorway = Doorway(store, lease=2.0)
    kind, doors = Spool if protection == "on" else NoSpool, Doors(doorway)
    try:
        claim, order = doorway.claimed("trial", {"seconds": 0.5})
        spool = kind(tmp_path / "spool", doors)
        runs = threading.Thread(target=run_attempt, args=(order, Identity("w", "first"), doors, spool))
        runs.start()
        wait(lambda: store.jobs.get(claim.job.id).worker_id)
        server.stop(signal.SIGQUIT)
        try:
            runs.join(DEADLINE)
        finally:
            server.start()
        assert spool.flush(DEADLINE), "nothing waits to be told"
        spool.close()
        if protection == "on":
            job = wait(lambda: job if (job := store.jobs.get(claim.job.id)).status.final else None)
            assert (job.status, outcomes(store, job.id)) == (JobStatus.COMPLETED, ["completed"])
        else:
            wait(lambda: store.jobs.claim(types=["trial"], limit=1, lease=60, holder="second", only=claim.job.id))
            assert outcomes(store, claim.job.id) == ["lost", None], "what was computed is lost: it runs again"
    finally:
        doors.close()
        doorway.end()


class Hasty:
    """A database whose single writes are answered before they are committed: that comes when there is time."""

    def __init__(self, database):
        self._database = database
        self.uncommitted = []

    def __getattr__(self, name):
        return getattr(self._database, name)

    @contextlib.contextmanager
    def single(self):
        writing = self._database.write()
        yield writing.__enter__()
        self.uncommitted.append(writing)


@BOTH
def test_r8_what_was_acknowledged_before_the_database_died(url, server, store, protection):
    acceptor = store.jobs._acceptor
    if protection == "off":
        acceptor._database = Hasty(acceptor._database)
    acked = [store.jobs.accept(NewJob(type=light.TYPE)).job.id for _ in range(3)]
    server.stop(signal.SIGQUIT)
    server.start()
    with open_store(url, pool_size=1) as after:
        there = [job_id for job_id in acked if after.jobs.get(job_id) is not None]
    if protection == "on":
        assert there == acked
    else:
        assert there == [], "acknowledged, and gone"
        for writing in acceptor._database.uncommitted:
            with pytest.raises(Exception, match="can't be used"):
                writing.__exit__(None, None, None)


# -- R13: a worker is told to go --------------------------------------------------------------------------------------

PULLS = """
import signal, sys
from idlegrid.api import pull_process
set_handler = signal.signal
if sys.argv[2] == "off":
    signal.signal = lambda number, what: set_handler(number, signal.SIG_DFL if number == signal.SIGTERM else what)
pull_process.main([sys.argv[1]])
"""


@BOTH
def test_r13_a_worker_that_is_told_to_go(site, store, protection):
    """Off: it goes at once, as a program does that says nothing about SIGTERM."""
    service = Service(store, with_settings(jobs={"lease": 2.0}))
    donor = Donor(id="leaver", name="leaver", region="europe-west", supported_types=frozenset({"trial"}))
    environment = os.environ | {VARIABLE: to_variable(donor), "IDLEGRID_API_WORKER_TOKEN": WORKER_TOKEN}
    job_id = store.jobs.accept(NewJob(type="trial", params={"seconds": 1.0, "value": 13})).job.id
    with serving(service) as url:
        leaver = subprocess.Popen([sys.executable, "-c", PULLS, url, protection], env=environment)
        try:
            wait(lambda: store.jobs.get(job_id).worker_id)
            leaver.send_signal(signal.SIGTERM)
            code = leaver.wait(DEADLINE)
        finally:
            leaver.kill()
            leaver.wait(DEADLINE)
    if protection == "on":
        assert (code, store.jobs.get(job_id).status) == (0, JobStatus.COMPLETED)
        assert outcomes(store, job_id) == ["completed"]
    else:
        assert code == -signal.SIGTERM
        wait(lambda: store.jobs.claim(types=["trial"], limit=1, lease=60, holder="second", only=job_id))
        assert outcomes(store, job_id) == ["lost", None], "it runs again"

"""The dispatcher on a real store and a real Dask cluster in this process: what it claims, and what it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest
from service import SECRET, URL
from small_cluster import cluster, donor

from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import NewJob
from idlegrid.grid.tenants import Salts
from idlegrid.pipelines.dispatch import desk as desks
from idlegrid.pipelines.dispatch import dispatcher as module
from idlegrid.pipelines.dispatch import link
from idlegrid.pipelines.dispatch.desk import Desk
from idlegrid.pipelines.dispatch.dispatcher import Dispatcher, Terms
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.spool import Spool

pytestmark = pytest.mark.slow

DEADLINE = 60.0


class Stage:
    """A cluster, a store behind a service, and a dispatcher between them."""

    def __init__(self, cluster, service, folder):
        self.cluster, self.service, self.jobs = cluster, service, service.store.jobs
        self._folder, self._desks = folder, []
        self.stop = asyncio.Event()
        self.running = None
        terms = Terms(secret=SECRET, api=(URL,), jobs=service.settings.jobs)
        self.dispatcher = Dispatcher(service.store, cluster.scheduler.address, terms)

    async def join(self, *donors):
        for one in donors:
            doors = Doors(self.service)
            desks._desks[one.id] = Desk(one.id, doors=doors, spool=Spool(self._folder / one.id, doors))
            self._desks.append(one.id)
            await self.cluster.join(one)

    def submit(self, params=None, **fields):
        return self.jobs.accept(NewJob(type="trial", params=params or {}, **fields)).job.id

    def job(self, job_id):
        return self.jobs.get(job_id, with_result=True)

    async def until(self, condition):
        async with asyncio.timeout(DEADLINE):
            while not (found := await asyncio.to_thread(condition)):  # noqa: ASYNC110 - the store's
                await asyncio.sleep(0.01)
        return found

    async def final(self, job_id):
        return await self.until(lambda: job if (job := self.job(job_id)).status.final else None)

    def outcomes(self, job_id):
        return [attempt.outcome for attempt in self.jobs.attempts(job_id)]

    async def stop_dispatching(self):
        self.stop.set()
        await asyncio.wait_for(self.running, DEADLINE)

    def close(self):
        for name in self._desks:
            desks._desks.pop(name).close()


def taker(id_, **more):
    return donor(id_, types=("trial",), **more)


@contextlib.asynccontextmanager
async def staged(service, folder, *donors):
    async with cluster() as c:
        stage = Stage(c, service, folder)
        await stage.join(*donors)
        stage.running = asyncio.create_task(stage.dispatcher.run(stage.stop))
        try:
            yield stage
        finally:
            await stage.stop_dispatching()
            stage.close()


async def test_jobs_come_to_workers_and_their_results_to_the_store(service, tmp_path):
    async with staged(service, tmp_path, taker("a"), taker("b")) as stage:
        ids = [stage.submit({"value": number}) for number in range(8)]
        done = [await stage.final(job_id) for job_id in ids]
        assert [(job.status, job.result["value"]) for job in done] == [(JobStatus.COMPLETED, n) for n in range(8)]
        assert {job.worker_id for job in done} <= {"a", "b"}
        await stage.until(lambda: stage.dispatcher.in_flight == 0)
        tasks = stage.cluster.scheduler.tasks
        await stage.until(lambda: not [key for key in tasks if "probe" not in str(key)])  # Dask keeps nothing


async def test_an_attempt_has_the_salt_of_its_client(service, tmp_path):
    async with staged(service, tmp_path, taker("a")) as stage:
        ids = [stage.submit({"then": "salt"}, client_id=client) for client in ("ann", "ann", "bob")]
        first, again, other = [(await stage.final(job_id)).result["padding"] for job_id in ids]
    assert first == again == Salts(SECRET).of("ann")
    assert other not in (first, "")


async def test_what_everybody_said_is_kept_with_the_attempt(service, tmp_path):
    donors = (taker("a"), taker("other", models=frozenset({"m"})), donor("deaf", types=("whisper",)))
    async with staged(service, tmp_path, *donors) as stage:
        job = await stage.final(stage.submit())
        await stage.until(lambda: stage.jobs.attempts(job.id)[0].verdicts)
        said = {row["worker"]: row["verdict"] for row in stage.jobs.attempts(job.id)[0].verdicts["workers"]}
        assert said[job.worker_id] == "accepted"
        assert said["deaf"] == "type_not_supported"
        assert set(said) == {"a", "other", "deaf"}


async def test_a_claim_that_could_not_be_sent_is_given_back_with_those_behind_it(service, tmp_path, monkeypatch):
    """Leases are 30 s here: what is not given back stays for so long."""
    sent = link.Link.explain
    broken = []

    async def breaks(self, ask, name):
        if not broken:
            broken.append(name)
            raise link.LinkLost("the scheduler does not answer")
        return await sent(self, ask, name)

    monkeypatch.setattr(link.Link, "explain", breaks)
    began = time.monotonic()
    async with staged(service, tmp_path, taker("a", max_concurrent_jobs=4)) as stage:
        ids = [stage.submit({"value": number}) for number in range(4)]
        done = [await stage.final(job_id) for job_id in ids]
        assert [job.status for job in done] == [JobStatus.COMPLETED] * 4
        assert broken
        assert not [job_id for job_id in ids if "lost" in stage.outcomes(job_id)], "no lease had to end for it"
    assert time.monotonic() - began < 30


async def test_no_more_is_claimed_than_can_start_now(service, tmp_path):
    async with staged(service, tmp_path, taker("a", max_concurrent_jobs=1)) as stage:
        ids = [stage.submit({"seconds": 0.2}) for _ in range(4)]
        most = 0
        while not all(stage.job(job_id).status.final for job_id in ids):
            most = max(most, sum(stage.job(job_id).status is JobStatus.RUNNING for job_id in ids))
            await asyncio.sleep(0.01)
        assert most == 1
        assert [stage.outcomes(job_id) for job_id in ids] == [["completed"]] * 4


async def test_what_nobody_here_may_take_is_in_nobody_s_way(service, tmp_path):
    async with staged(service, tmp_path, taker("a", models=frozenset({"m"}))) as stage:
        stuck = [stage.submit(region="oceania", allow_cross_region=False) for _ in range(3)]
        assert (await stage.final(stage.submit())).status is JobStatus.COMPLETED
        assert [stage.job(job_id).status for job_id in stuck] == [JobStatus.QUEUED] * 3
        await stage.join(taker("there", region="oceania"))
        assert [(await stage.final(job_id)).worker_id for job_id in stuck] == ["there"] * 3


async def test_a_job_whose_parameters_its_type_refuses_by_now_fails_at_once(service, tmp_path):
    async with staged(service, tmp_path, taker("a")) as stage:
        job = await stage.final(stage.submit({"of": "an older version"}))
        assert (job.status, job.error_code, job.attempts) == (JobStatus.FAILED, "invalid_params", 0)


async def test_a_job_that_fails_goes_elsewhere_and_back_when_there_is_nobody_else(service, tmp_path):
    async with staged(service, tmp_path, taker("a"), taker("b")) as stage:
        job_id = stage.submit({"then": "raise"})
        job = await stage.final(job_id)
        assert (job.status, job.error_code) == (JobStatus.FAILED, "error")
        tried = [attempt.worker_id for attempt in stage.jobs.attempts(job_id)]
        assert len(tried) == 3
        assert set(tried[:2]) == {"a", "b"}


async def test_what_nobody_begins_is_given_back_and_the_worker_left_alone(service, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEGIN_WITHIN", 0.5)
    async with staged(service, tmp_path, taker("deaf")) as stage:
        service.away = True  # this worker can't reach the service
        job_id = stage.submit({"value": 1})
        await stage.until(lambda: "released" in stage.outcomes(job_id))
        service.away = False
        await stage.join(taker("well"))
        job = await stage.final(job_id)
        assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1), "a claim that nobody began is no attempt"


async def test_a_cancelled_job_stops_on_its_worker(service, tmp_path):
    async with staged(service, tmp_path, taker("a")) as stage:
        job_id = stage.submit({"seconds": 60})
        await stage.until(lambda: stage.job(job_id).worker_id)
        stage.jobs.cancel(job_id)
        job = await stage.final(job_id)
        assert job.status is JobStatus.CANCELLED


async def test_two_dispatchers_share_the_work(service, tmp_path):
    async with staged(service, tmp_path, taker("a"), taker("b")) as stage:
        stop = asyncio.Event()
        terms = Terms(secret=SECRET, api=(URL,), jobs=service.settings.jobs, holder="second")
        second = Dispatcher(service.store, stage.cluster.scheduler.address, terms)
        running = asyncio.create_task(second.run(stop))
        ids = [stage.submit({"seconds": 0.05}) for _ in range(10)]
        for job_id in ids:
            assert (await stage.final(job_id)).status is JobStatus.COMPLETED
        stop.set()
        await asyncio.wait_for(running, DEADLINE)
        assert all(stage.outcomes(job_id).count("completed") == 1 for job_id in ids)


async def test_what_runs_goes_on_without_its_dispatcher(service, tmp_path):
    async with staged(service, tmp_path, taker("a")) as stage:
        job_id = stage.submit({"value": 2, "seconds": 0.5})
        await stage.until(lambda: stage.job(job_id).worker_id)
        await stage.stop_dispatching()
        assert stage.dispatcher.in_flight == 0
        assert (await stage.final(job_id)).status is JobStatus.COMPLETED
        assert stage.outcomes(job_id) == ["completed"]


async def test_without_a_scheduler_nothing_is_claimed(service, caplog, monkeypatch):
    monkeypatch.setattr(link, "CONNECT", 0.2)
    terms = Terms(secret=SECRET, api=(URL,), jobs=service.settings.jobs)
    said, stop = [], asyncio.Event()
    alone = Dispatcher(service.store, "tcp://127.0.0.1:1", terms, say=said.append)
    job = service.store.jobs.accept(NewJob(type="trial"))
    with caplog.at_level(logging.CRITICAL):
        running = asyncio.create_task(alone.run(stop))
        async with asyncio.timeout(DEADLINE):
            while not said:  # noqa: ASYNC110 - said by the other task
                await asyncio.sleep(0.01)
        stop.set()
        await running
    assert "no scheduler answers at tcp://127.0.0.1:1" in said[0]
    assert service.store.jobs.get(job.job.id).fence == 0


async def test_a_job_for_which_there_is_no_memory_waits_without_harm(service, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEGIN_WITHIN", 0.3)
    monkeypatch.setattr(module, "SILENT_STARTS", 1)
    said = []
    async with staged(service, tmp_path, taker("small", gpu_model="T4", gpu_memory_gb=8.0)) as stage:
        stage.dispatcher._say = said.append
        job_id = stage.submit({"gpu_memory_gb": 16.0})
        await stage.until(lambda: stage.outcomes(job_id).count("released") >= 2)
        assert (await stage.final(stage.submit())).status is JobStatus.COMPLETED
        assert said == [], "the link is not to blame"
        await stage.join(taker("large", gpu_model="A100", gpu_memory_gb=80.0))
        assert (await stage.final(job_id)).worker_id == "large"

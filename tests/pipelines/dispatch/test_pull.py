"""A worker that asks: the same attempts and fences, under its owner's limits, without Dask."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import NewJob
from idlegrid.pipelines.dispatch import pull
from idlegrid.pipelines.dispatch.desk import Desk
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.pull import Puller
from idlegrid.pipelines.dispatch.spool import Spool

URL = ("http://127.0.0.1",)
NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)


def donor(**limits):
    return Donor(id="puller", name="puller", supported_types=frozenset({"trial"}), limits=Limits(**limits))


@pytest.fixture
def desk(service, tmp_path):
    desk = Desk("puller", doors=(doors := Doors(service)), spool=Spool(tmp_path / "spool", doors))
    yield desk
    desk.close()


def asking(puller):
    stop = threading.Event()
    thread = threading.Thread(target=puller.ask_until, args=(stop,))
    thread.start()
    return stop, thread


def final(service, job_id):
    seq = 0
    while not (job := service.store.jobs.get(job_id, with_result=True)).status.final:
        assert service.store.events.wait(job_id, seq, 60), "nothing happened for a minute"
        seq = max(event.seq for event in service.store.events.after(job_id, seq))
    return job


def test_it_does_what_it_is_given(service, desk, monkeypatch):
    monkeypatch.setattr(pull, "WAIT", 0.5)
    jobs = [service.store.jobs.accept(NewJob(type="trial", params={"value": n})).job.id for n in range(3)]
    stop, thread = asking(Puller(donor(max_concurrent_jobs=2), URL, "token", desk))
    done = [final(service, job_id) for job_id in jobs]
    stop.set()
    thread.join(90)
    assert not thread.is_alive()
    assert [(job.status, job.worker_id, job.result["value"]) for job in done] == [
        (JobStatus.COMPLETED, "puller", n) for n in range(3)
    ]


def test_a_wrong_token_ends_it_with_a_reason(service, desk):
    puller = Puller(donor(), URL, "wrong", desk)
    puller.ask_until(threading.Event())
    assert "gives this worker no work" in str(puller.refused)


def test_outside_of_its_hours_it_does_not_ask(service, desk):
    puller = Puller(donor(working_hours_start=22, working_hours_end=6), URL, "token", desk, now=lambda: NOON)
    stop, thread = asking(puller)
    stop.set()
    thread.join(60)
    assert "next-job" not in service.asked


def test_a_job_that_comes_when_it_leaves_is_handed_back_at_once(service, desk):
    """Its process would have ended under it, and its lease held it for nobody."""
    stop = threading.Event()

    class Slow(Doors):
        def next_job(self, *question):
            found = super().next_job(*question)
            stop.set()
            return found

    desk.doors = Slow(service)
    job_id = service.store.jobs.accept(NewJob(type="trial", params={})).job.id
    Puller(donor(), URL, "token", desk).ask_until(stop)
    assert service.store.jobs.get(job_id).status is JobStatus.QUEUED
    assert [attempt.outcome for attempt in service.store.jobs.attempts(job_id)] == ["handed_back"]

"""One attempt on a worker, against the real doors and the real store: whatever happens, one end, told once."""

from __future__ import annotations

import json
import threading
import time
from importlib.metadata import entry_points

import naughty
import pytest

from idlegrid.grid import job_types
from idlegrid.grid.jobs import JobStatus
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.runner import Heart, Outcome, run_attempt
from idlegrid.pipelines.dispatch.spool import LETTER, MARK, Spool
from idlegrid.pipelines.dispatch.work_order import Identity

pytestmark = pytest.mark.slow

ME = Identity("worker-1", "incarnation-1")
DEADLINE = 60.0


class Bench:
    """A worker's process: doors and spool."""

    def __init__(self, service, folder):
        self.service, self.folder = service, folder
        self.doors = Doors(service)
        self.spool = Spool(folder, self.doors)

    def run(self, attempt, who=ME):
        return run_attempt(attempt, who, self.doors, self.spool)

    def aside(self, attempt, who=ME):
        """In a thread; call the answer for the outcome."""
        told = []
        thread = threading.Thread(target=lambda: told.append(self.run(attempt, who)))
        thread.start()

        def outcome():
            thread.join(DEADLINE)
            return told[0]

        return outcome

    def files(self, kind):
        return [path.name for path in self.folder.glob(f"*{kind}")]

    def end(self):
        self.spool.close()
        self.doors.close()


@pytest.fixture
def bench(service, tmp_path):
    bench = Bench(service, tmp_path / "spool")
    yield bench
    bench.end()


@pytest.fixture
def hasty_bench(hasty, tmp_path):
    bench = Bench(hasty, tmp_path / "spool")
    yield bench
    bench.end()


def until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def job(service, claim, **options):
    return service.store.jobs.get(claim.job.id, with_result=True, **options)


def test_a_result_is_told_once_and_leaves_nothing_behind(bench, service):
    claim, attempt = service.claimed("trial", {"value": 7})
    assert bench.run(attempt) is Outcome.TOLD
    done = job(service, claim)
    assert (done.status, done.result["value"], done.worker_id, done.attempts) == (JobStatus.COMPLETED, 7, "worker-1", 1)
    assert bench.files(MARK) == bench.files(LETTER) == []
    assert bench.run(attempt) is Outcome.REFUSED, "what has ended does not begin again"


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"then": "refuse"}, JobStatus.FAILED, "invalid_params"),
        ({"then": "what?"}, JobStatus.FAILED, "invalid_params"),
        ({"then": "raise"}, JobStatus.QUEUED, "error"),
    ],
)
def test_what_nobody_can_do_fails_at_once_and_the_rest_is_tried_elsewhere(bench, service, params, status, code):
    claim, attempt = service.claimed("trial", params)
    assert bench.run(attempt) is Outcome.TOLD
    found = job(service, claim)
    assert found.status is status
    assert service.store.jobs.attempts(claim.job.id)[0].detail.startswith(code)
    assert status is JobStatus.FAILED or found.excluded == {"worker-1"}


def test_a_type_that_is_not_installed_here_is_tried_elsewhere(bench, service):
    claim, attempt = service.claimed("unheard-of")
    assert bench.run(attempt) is Outcome.TOLD
    assert job(service, claim).status is JobStatus.QUEUED


def test_a_result_that_is_too_large_says_so(bench, store, trial, service):
    service.settings = service.settings.model_copy(
        update={"jobs": service.settings.jobs.model_copy(update={"max_result_mb": 1.0})}
    )
    claim, attempt = service.claimed("trial", {"then": "large"})
    assert bench.run(attempt) is Outcome.TOLD
    found = job(service, claim)
    assert (found.status, found.error_code) == (JobStatus.FAILED, "result_too_large")
    assert "at most 1,000,000 are kept" in found.error


def test_a_cancelled_job_stops_and_says_so(bench, service):
    claim, attempt = service.claimed("trial", {"seconds": 60})
    outcome = bench.aside(attempt)
    until(lambda: job(service, claim).worker_id)
    service.store.jobs.cancel(claim.job.id)
    assert outcome() is Outcome.TOLD
    assert job(service, claim).status is JobStatus.CANCELLED


def test_a_job_that_takes_too_long_ends_as_timeout(bench, service):
    claim, attempt = service.claimed("trial", {"seconds": 60}, timeout_seconds=0.3)
    assert bench.run(attempt) is Outcome.TOLD
    assert job(service, claim).status is JobStatus.TIMEOUT


@pytest.mark.slow
def test_a_lease_is_kept_for_longer_than_it_is(hasty_bench, hasty):
    claim, attempt = hasty.claimed("trial", {"seconds": 3.0})  # leases are 2 s here
    assert hasty_bench.run(attempt) is Outcome.TOLD
    assert job(hasty, claim).status is JobStatus.COMPLETED
    assert hasty.asked.count("progress") >= 4


def test_text_is_told_before_the_end(bench, service):
    claim, attempt = service.claimed("trial", {"words": 5})
    assert bench.run(attempt) is Outcome.TOLD
    events = service.store.events.after(claim.job.id, 0)
    assert "".join(event.data["text"] for event in events if event.kind == "tokens") == "word0 word1 word2 word3 word4 "


@pytest.mark.slow
def test_a_worker_that_can_reach_nobody_stops_by_its_own_clock(hasty_bench, hasty):
    claim, attempt = hasty.claimed("trial", {"seconds": 60})
    outcome = hasty_bench.aside(attempt)
    until(lambda: job(hasty, claim).worker_id)
    began = time.monotonic()
    hasty.away = True
    assert outcome() is Outcome.LOST
    assert time.monotonic() - began < DEADLINE / 2
    assert hasty_bench.files(LETTER) == [], "it has nothing to say: another worker does the job"


def test_a_result_that_can_t_be_told_is_kept_and_told_later(bench, service):
    claim, attempt = service.claimed("trial", {"value": 3, "seconds": 0.3})
    outcome = bench.aside(attempt)
    until(lambda: job(service, claim).worker_id)
    service.away = True
    assert outcome() is Outcome.KEPT
    assert len(bench.files(LETTER)) == 1
    assert job(service, claim).status is JobStatus.RUNNING
    service.away = False
    assert bench.spool.flush(DEADLINE)
    assert (job(service, claim).status, job(service, claim).result["value"]) == (JobStatus.COMPLETED, 3)


def test_what_a_dead_process_kept_is_told_by_the_next_one(bench, service):
    claim, attempt = service.claimed("trial", {"value": 3, "seconds": 0.3})
    outcome = bench.aside(attempt)
    until(lambda: job(service, claim).worker_id)
    service.away = True
    assert outcome() is Outcome.KEPT
    bench.end()
    service.away = False
    after = Spool(bench.folder, Doors(service))
    after.start(Identity(ME.worker_id, "incarnation-2"))
    until(lambda: job(service, claim).status is JobStatus.COMPLETED)
    until(lambda: not bench.files(LETTER))
    after.close()


@pytest.mark.slow
def test_a_late_result_of_an_old_fence_changes_nothing(hasty_bench, hasty):
    claim, attempt = hasty.claimed("trial", {"value": 1, "seconds": 2.6, "deaf": True})
    outcome = hasty_bench.aside(attempt)
    until(lambda: job(hasty, claim).worker_id)
    hasty.away = True  # for longer than the lease, as if it were frozen
    until(lambda: hasty.store.jobs.peek(types=["trial"], limit=1))
    second_claim, second = hasty.claim(claim.job.id)
    hasty.away = False
    assert run_attempt(second, Identity("worker-2", "x"), hasty_bench.doors, hasty_bench.spool) is Outcome.TOLD
    assert outcome() is Outcome.REFUSED
    assert job(hasty, claim).worker_id == "worker-2"
    assert [attempt.outcome for attempt in hasty.store.jobs.attempts(claim.job.id)] == ["lost", "completed"]
    assert second_claim.fence == claim.fence + 1


def test_the_mark_of_a_dead_process_is_its_report(bench, service):
    claim, attempt = service.claimed("trial")
    heart = Heart(attempt, ME, bench.doors)
    heart.begin()
    bench.spool.mark(attempt, ME)
    heart.end()  # and here the process is killed
    after = Spool(bench.folder, bench.doors)
    after.start(Identity(ME.worker_id, "incarnation-2"))
    assert after.flush(DEADLINE)
    after.close()
    found = job(service, claim)
    assert (found.status, found.deaths, found.killed) == (JobStatus.QUEUED, 1, {"worker-1"})
    assert bench.files(MARK) == []


def test_a_process_that_leaves_blames_no_job(bench, service):
    _, attempt = service.claimed("trial")
    bench.spool.mark(attempt, ME)
    bench.spool.unmark_all()
    after = Spool(bench.folder, bench.doors)
    after.start(Identity(ME.worker_id, "incarnation-2"))
    assert after.waiting() == 0
    after.close()


def test_two_processes_do_not_share_an_spool(bench, service):
    _, attempt = service.claimed("trial")
    bench.spool.start(ME)
    bench.spool.mark(attempt, ME)
    other = Spool(bench.folder, bench.doors)
    other.start(Identity(ME.worker_id, "incarnation-2"))
    assert bench.files(MARK) == [f"{attempt.name}{MARK}"], "what runs is not reported dead"
    other.close()


def test_an_attempt_does_not_begin_twice(bench, service):
    claim, attempt = service.claimed("trial", {"seconds": 0.5})
    outcome = bench.aside(attempt)
    until(lambda: job(service, claim).worker_id)
    assert bench.run(attempt, Identity("worker-2", "y")) is Outcome.REFUSED
    assert bench.run(attempt, Identity("worker-1", "another process")) is Outcome.REFUSED
    assert outcome() is Outcome.TOLD


def test_nothing_of_a_client_reaches_the_spool_or_a_log(bench, service, caplog):
    claim, attempt = service.claimed("trial", {"value": 424242, "seconds": 0.2})
    assert "424242" not in repr(attempt)
    assert attempt.token not in repr(attempt)
    outcome = bench.aside(attempt)
    until(lambda: job(service, claim).worker_id)
    service.away = True
    assert outcome() is Outcome.KEPT
    [letter] = bench.folder.glob(f"*{LETTER}")
    assert letter.stat().st_mode & 0o777 == 0o600
    first_line = letter.read_bytes().split(b"\n")[0]
    assert json.loads(first_line)["attempt"]["params"] == {}
    assert "424242" not in caplog.text


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    """A stranger's job type whose tasks run in processes of their own, installed beside the others."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    naughty.install(folder)
    monkeypatch.syspath_prepend(folder)
    types = dict(job_types.job_types()) | job_types.load(entry_points(name="naughty")).types
    monkeypatch.setattr(job_types, "register", lambda: job_types.Register(types))


@pytest.mark.parametrize(
    ("do", "code"), [("memory", "memory_limit"), ("result", "output_limit"), ("refuses", "invalid_params")]
)
def test_an_isolated_task_that_misbehaves_fails_alone(bench, service, isolated, do, code):
    claim, attempt = service.claimed("naughty", {"do": do})
    other, neighbour = service.claimed("trial", {"value": 7})
    outcome = bench.aside(attempt)
    assert bench.run(neighbour) is Outcome.TOLD
    assert outcome() is Outcome.TOLD
    found = job(service, claim)
    assert (found.status, found.error_code) == (JobStatus.FAILED, code)
    assert job(service, other).status is JobStatus.COMPLETED


def test_an_isolated_task_answers_and_is_cancelled_as_any(bench, service, isolated):
    claim, attempt = service.claimed("naughty", {"mark": "hello"})
    assert bench.run(attempt) is Outcome.TOLD
    assert job(service, claim).result["answer"].startswith("hello from ")
    claim, attempt = service.claimed("naughty", {"do": "waits"})
    outcome = bench.aside(attempt)
    until(lambda: job(service, claim).started_at is not None)
    service.store.jobs.cancel(claim.job.id)
    assert outcome() is Outcome.TOLD
    assert job(service, claim).status is JobStatus.CANCELLED

"""What is known of a worker's past: counted once, from jobs and stays, and a score that outlives everything."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from store_helpers import claim_one, pass_time

from idlegrid.grid.reliability import NEUTRAL, History, score
from idlegrid.grid.store import NewJob, Store, WorkerFacts, sessions
from idlegrid.grid.store.donor_values import Beat
from idlegrid.grid.store.stays import arrived, left


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended counts at once: these tests wait for nobody's commit."""
    monkeypatch.setattr(sessions, "LATE", 0)


def attempt(store: Store, job_id: str, worker: str, code: str | None = None, **how: object) -> None:
    """One attempt of a worker, which completes it or fails with a code."""
    claim = claim_one(store, job_id)
    store.jobs.begin(job_id, claim.fence, worker, "i", 30)
    who = {"worker_id": worker, "incarnation": "i"}
    if code == "handed_back":
        store.jobs.hand_back(job_id, claim.fence, **who)
    elif code is not None:
        store.jobs.fail(job_id, claim.fence, code=code, message="m", retry=True, **who, **how)
    else:
        store.jobs.complete(job_id, claim.fence, result={}, usage=None, seconds=1.0, **who)


def job(store: Store, *tries: tuple[str, str | None], **how: object) -> str:
    """A job with these attempts: worker and code, None for a result."""
    id_ = store.jobs.accept(NewJob(type="noop")).job.id
    for worker, code in tries:
        attempt(store, id_, worker, code, **(how if code else {}))
    return id_


def counts(store: Store, worker: str) -> tuple[int, int]:
    store.sessions.count()
    history = store.sessions.histories().get(worker, History())
    return history.jobs_done, history.jobs_failed


def stay(store: Store, worker: str, seconds: float, *, graceful: bool | None) -> None:
    """A stay that began so long ago; None: it goes on."""
    with store._database.write() as session:
        arrived(session, worker, "i")
        session.run(
            "UPDATE sessions SET started_at = started_at - :us WHERE worker_id = :w AND ended_at IS NULL",
            {"us": round(seconds * 1e6), "w": worker},
        )
        if graceful is not None:
            left(session, worker, graceful=graceful)


def test_what_ended_is_counted_once_whoever_counts(store: Store):
    for _ in range(3):
        job(store, ("a", None))
    job(store, ("a", "error"), ("b", None))
    threads = [threading.Thread(target=store.sessions.count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(store, "a") == (3, 1)
    assert counts(store, "b") == (1, 0)
    job(store, ("a", None))
    assert counts(store, "a") == (4, 1)


def test_a_history_outlives_the_jobs_that_it_was_made_of(store: Store):
    job(store, ("a", None))
    assert counts(store, "a") == (1, 0)
    pass_time(store, 100)
    assert store.jobs.expire(50) == 1
    assert counts(store, "a") == (1, 0)


@pytest.mark.parametrize(
    ("tries", "how", "blamed"),
    [
        ([("a", "error"), ("b", None)], {}, 1),  # another could do it
        ([("a", "error"), ("b", "error"), ("c", "error")], {}, 0),  # nobody could
        ([("a", "worker_died"), ("b", None)], {"death": True}, 1),
        ([("a", "worker_died"), ("b", "worker_died"), ("c", "worker_died")], {"death": True}, 0),  # poison
        ([("a", "handed_back"), ("b", None)], {}, 0),
        ([("a", "handed_back"), ("a", "handed_back"), ("a", None)], {}, 0),
        ([("a", "timeout")], {}, 0),
    ],
)
def test_who_is_blamed_for_what(store: Store, tries, how, blamed):
    job(store, *tries, **how)
    done = sum(1 for worker, code in tries if (worker, code) == ("a", None))
    assert counts(store, "a") == (done, blamed)


def test_a_donor_that_falls_silent_under_a_job_is_blamed_when_another_has_done_it(store: Store):
    id_ = store.jobs.accept(NewJob(type="noop")).job.id
    claim = claim_one(store, id_)
    store.jobs.begin(id_, claim.fence, "a", "i", 30)
    pass_time(store, 31)
    assert counts(store, "a") == (0, 0)
    attempt(store, id_, "b")
    assert counts(store, "a") == (0, 1)


def test_handing_back_and_leaving_with_a_word_cost_nothing(store: Store):
    for _ in range(20):
        job(store, ("steady", None))
        job(store, ("owner", "handed_back"), ("owner", None))
    store.workers.upsert(WorkerFacts(id="owner", name="o"))
    store.workers.upsert(WorkerFacts(id="steady", name="s"))
    for _ in range(20):
        stay(store, "owner", 100, graceful=True)
    stay(store, "steady", 2000, graceful=True)
    store.sessions.count()
    now = datetime.now(UTC)
    scores = store.sessions.rate(store.sessions.histories(), now)
    for term in ("success", "stability", "seniority"):
        assert getattr(scores["owner"], term) >= getattr(scores["steady"], term) - 1e-3
    assert scores["owner"].total > NEUTRAL


def test_a_stay_that_ends_without_a_word_costs_and_the_one_that_goes_on_counts(store: Store):
    for id_ in ("good", "bad"):
        store.workers.upsert(WorkerFacts(id=id_, name=id_))
    stay(store, "good", 40_000, graceful=True)
    stay(store, "good", 40_000, graceful=None)
    stay(store, "bad", 40_000, graceful=False)
    stay(store, "bad", 40_000, graceful=None)
    store.sessions.count()
    scores, known = store.sessions.rate(store.sessions.histories(), datetime.now(UTC)), store.sessions.histories()
    assert (known["bad"].unexpected_ends, known["good"].unexpected_ends) == (1, 0)
    assert known["good"].session_seconds == pytest.approx(40_000, abs=60)
    assert (datetime.now(UTC) - known["good"].online_since).total_seconds() == pytest.approx(40_000, abs=60)
    assert scores["good"].stability > NEUTRAL > scores["bad"].stability


def test_the_score_is_kept_for_heartbeats_and_for_who_asks_for_work(store: Store):
    store.workers.upsert(WorkerFacts(id="a", name="a"))
    for _ in range(30):
        job(store, ("a", None))
    store.sessions.count()
    now = datetime.now(UTC)
    total = store.sessions.rate(store.sessions.histories(), now)["a"].total
    answer = store.donors.heartbeat(Beat(worker_id="a", status="online", incarnation="i"))
    assert answer is not None
    assert answer.reliability == score(store.sessions.histories()["a"], now).to_wire()
    assert answer.reliability["total"] == pytest.approx(total, abs=1e-3)
    (worker,) = store.workers.list()
    assert worker.reliability == answer.reliability


def test_who_is_silent_is_taken_for_gone_and_comes_back_with_a_stay_of_its_own(store: Store):
    store.workers.upsert(WorkerFacts(id="a", name="a"))
    store.workers.upsert(WorkerFacts(id="b", name="b"))
    beat = Beat(worker_id="a", status="online", incarnation="i")
    store.donors.heartbeat(beat)
    store.donors.heartbeat(Beat(worker_id="b", status="online", incarnation="i"))
    assert store.sessions.sweep(90) == 0
    with store._database.write() as session:
        session.run("UPDATE workers SET last_heartbeat = last_heartbeat - 91000000 WHERE id = 'a'", {})
    assert store.sessions.sweep(90) == 1
    assert store.sessions.sweep(90) == 0, "once"
    assert [worker.facts.status for worker in store.workers.list()] == ["offline", "online"]
    store.sessions.count()
    known = store.sessions.histories()
    assert (known["a"].sessions, known["a"].unexpected_ends, known["a"].online_since) == (1, 1, None)
    store.donors.heartbeat(beat)
    assert store.sessions.histories()["a"].online_since is not None
    assert [worker.facts.status for worker in store.workers.list()] == ["online", "online"]


def test_slow_and_fast_are_against_the_median_of_the_type(store: Store):
    with store._database.write() as session:
        for number in range(9):
            session.run(
                "INSERT INTO usage (job_id, client_id, type, worker_id, seconds, held_us, at) "
                "VALUES (:id, 'c', 'noop', 'w', 1, 10000000, 1)",
                {"id": f"old {number}"},
            )
    assert store.sessions.usual_seconds(["noop", "llm"]) == {"noop": 10.0}
    id_ = store.jobs.accept(NewJob(type="noop", timeout_seconds=1000)).job.id
    claim = claim_one(store, id_, lease=500)
    store.jobs.begin(id_, claim.fence, "slow", "i", 500)
    with store._database.write() as session:
        session.run("UPDATE attempts SET begun_at = begun_at - 200000000", {})
    store.jobs.complete(id_, claim.fence, worker_id="slow", incarnation="i", result={}, usage=None, seconds=1.0)
    job(store, ("fast", None))
    store.sessions.count()
    known = store.sessions.histories()
    assert known["slow"].latency_ratio > 1.0 > known["fast"].latency_ratio

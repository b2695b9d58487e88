"""The contract of the jobs in the store, on both databases."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from store_helpers import claim_one, pass_time

from idlegrid.grid.jobs import JobStatus
from idlegrid.grid.store import IdempotencyConflict, NewJob, Placement, QueueFull, Stale, Store, WorkerFacts

PAIR = {"worker_id": "w1", "incarnation": "i1"}


def run(store: Store, job_id: str, fence: int, worker: str = "w1") -> None:
    store.jobs.begin(job_id, fence, worker, "i1", 30)


def begun(store: Store, **fields: object) -> tuple[str, int]:
    """A job that runs on w1: its id and fence."""
    job = store.jobs.accept(NewJob(type="noop", **fields)).job
    claim = claim_one(store, job.id)
    run(store, job.id, claim.fence)
    return job.id, claim.fence


def statuses(store: Store, job_id: str) -> list[str]:
    return [event.data["status"] for event in store.events.after(job_id, 0) if event.kind == "status"]


class TestAccept:
    def test_what_was_accepted_is_there(self, store):
        new = NewJob(
            type="llm",
            params={"prompt": "日本 \x00 \ud800", "n": 1.5},
            priority=3,
            region="europe-west",
            allow_cross_region=False,
            timeout_seconds=12.5,
            client_id="c",
            client_ip="127.0.0.1",
            trace_id="t",
        )
        accepted = store.jobs.accept(new)
        found = store.jobs.get(accepted.job.id)
        assert accepted.created
        assert found == accepted.job
        for name in NewJob.__slots__:
            assert getattr(found, name) == getattr(new, name)
        assert found.status is JobStatus.QUEUED
        assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=1)

    def test_ids_grow_with_time(self, store):
        ids = [store.jobs.accept(NewJob(type="noop")).job.id for _ in range(20)]
        assert ids == sorted(ids)
        assert len(set(ids)) == 20

    @pytest.mark.parametrize(
        "new",
        [
            NewJob(type="noop", params={"x": float("nan")}),
            NewJob(type="noop", params={"x": object()}),
            NewJob(type="noop", priority=101),
            NewJob(type="noop", region="atlantis"),
        ],
    )
    def test_what_cannot_be_kept_is_refused(self, store, new):
        with pytest.raises((ValueError, LookupError)):
            store.jobs.accept(new)
        assert store.jobs.stats().total_queued == 0

    def test_a_key_gives_the_first_job_again(self, store):
        first = store.jobs.accept(NewJob(type="noop", client_id="a"), idempotency_key="k", body_sha256="b")
        again = store.jobs.accept(NewJob(type="noop", client_id="a"), idempotency_key="k", body_sha256="b")
        other = store.jobs.accept(NewJob(type="noop", client_id="b"), idempotency_key="k", body_sha256="x")
        assert (again.created, again.job) == (False, first.job)
        assert other.created
        with pytest.raises(IdempotencyConflict, match="another body"):
            store.jobs.accept(NewJob(type="noop", client_id="a"), idempotency_key="k", body_sha256="y")

    def test_fifty_at_once_with_one_key_make_one_job(self, store):
        """R6. Some acknowledgements are lost: their senders ask again."""
        gate = threading.Barrier(50)

        def ask(number: int) -> str:
            gate.wait(60)
            for _ in range(2 if number % 5 == 0 else 1):
                job = store.jobs.accept(NewJob(type="noop"), idempotency_key="k", body_sha256="b").job
            return job.id

        with ThreadPoolExecutor(50) as pool:
            ids = set(pool.map(ask, range(50)))
        assert len(ids) == 1
        assert len(store.jobs.list().items) == 1

    def test_one_bad_job_in_a_group_harms_no_other(self, store):
        """Jobs that arrive together share a transaction; NUL is what PostgreSQL's text can't hold."""
        gate = threading.Barrier(8)

        def ask(number: int) -> str:
            gate.wait(60)
            return store.jobs.accept(NewJob(type="noop", trace_id=f"{number}\x00", params={"n": number})).job.id

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(ask, range(8)))
        assert [store.jobs.get(id_).params["n"] for id_ in ids] == list(range(8))

    @pytest.mark.parametrize("exact", [True, False])
    def test_no_more_wait_than_may(self, store, exact, monkeypatch):
        monkeypatch.setattr("idlegrid.grid.store.accepting.QueueGauge.EXACT", 1000 if exact else 0)
        for number in range(3):
            store.jobs.accept(NewJob(type="noop"), max_queued=3, idempotency_key=str(number))
        with pytest.raises(QueueFull, match="3 jobs wait"):
            store.jobs.accept(NewJob(type="noop"), max_queued=3)
        assert not store.jobs.accept(NewJob(type="noop"), max_queued=3, idempotency_key="1").created


class TestClaim:
    def test_by_priority_and_then_by_age(self, store):
        low, first, second, high = (
            store.jobs.accept(NewJob(type="noop", priority=priority)).job.id for priority in (-1, 0, 0, 5)
        )
        claims = store.jobs.claim(types=["noop"], limit=10, lease=30, holder="d")
        assert [claim.job.id for claim in claims] == [high, first, second, low]
        assert {claim.fence for claim in claims} == {1}

    def test_waiting_counts_so_that_nobody_starves(self, store):
        """60 s of waiting are worth one step."""
        old = store.jobs.accept(NewJob(type="noop", priority=0)).job.id
        pass_time(store, 121)
        new = store.jobs.accept(NewJob(type="noop", priority=2)).job.id
        assert [claim.job.id for claim in store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")] == [old]
        assert [claim.job.id for claim in store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")] == [new]

    def test_only_its_types_its_region_and_this_one(self, store):
        here = store.jobs.accept(NewJob(type="a", region="europe-west", allow_cross_region=False)).job.id
        anywhere = store.jobs.accept(NewJob(type="a", region="europe-west")).job.id
        other = store.jobs.accept(NewJob(type="b")).job.id

        def ids(**wish: object) -> list[str]:
            return [job.id for job in store.jobs.peek(limit=10, **wish)]

        assert ids(types=["a"]) == [here, anywhere]
        assert ids(types=["a"], region="oceania") == [anywhere]
        assert ids(types=["a", "b"], region="europe-west") == [here, anywhere, other]
        assert ids(types=["c"]) == ids(types=[]) == []
        assert ids(types=["a"], only=other) == []
        assert ids(types=["a"], only=here, region="oceania") == []
        assert ids(types=["b"], only=other) == [other]
        assert not store.jobs.claim(types=["a"], limit=5, lease=30, holder="d", only=here, region="oceania")
        assert store.jobs.claim(types=["a"], limit=5, lease=30, holder="d", only=here, region="europe-west")
        claims = store.jobs.claim(types=["a", "b"], limit=5, lease=30, holder="d", region="oceania")
        assert [claim.job.id for claim in claims] == [anywhere, other]

    def test_a_lease_that_ended_is_claimed_again(self, store):
        job_id, fence = begun(store)
        assert not store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")
        pass_time(store, 31)
        [again] = store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d2")
        assert (again.job.id, again.fence, again.job.losses) == (job_id, fence + 1, 1)
        first, second = store.jobs.attempts(job_id)
        assert (first.outcome, second.outcome) == ("lost", None)
        with pytest.raises(Stale, match="fence 1 is old"):
            store.jobs.complete(job_id, fence, **PAIR, result={}, usage=None, seconds=1)

    def test_claiming_and_beginning_at_once(self, store):
        job = store.jobs.accept(NewJob(type="noop", timeout_seconds=10)).job
        [claim] = store.jobs.claim(types=["noop"], limit=1, lease=30, holder="p", bind=("w1", "i1"))
        assert (claim.job.worker_id, claim.job.incarnation, claim.job.attempts) == ("w1", "i1", 1)
        assert claim.job.started_at is not None
        assert store.jobs.complete(job.id, 1, **PAIR, result={}, usage=None, seconds=1).status is JobStatus.COMPLETED
        assert store.jobs.attempts(job.id)[0].begun_at is not None

    def test_many_at_once_get_each_job_once(self, store):
        for _ in range(60):
            store.jobs.accept(NewJob(type="noop"))
        gate = threading.Barrier(6)

        def take(number: int) -> list[str]:
            gate.wait(60)
            taken: list[str] = []
            while claims := store.jobs.claim(types=["noop"], limit=4, lease=300, holder=f"d{number}"):
                taken += [claim.job.id for claim in claims]
            return taken

        with ThreadPoolExecutor(6) as pool:
            taken = [id_ for ids in pool.map(take, range(6)) for id_ in ids]
        assert len(taken) == len(set(taken)) == 60


class TestAttempt:
    def test_one_process_begins_it(self, store):
        job_id, fence = begun(store)
        run(store, job_id, fence)
        assert store.jobs.get(job_id).attempts == 1
        with pytest.raises(Stale, match="process i1 of worker w1"):
            store.jobs.begin(job_id, fence, "w1", "i2", 30)
        with pytest.raises(Stale):
            store.jobs.begin(job_id, fence, "w2", "i1", 30)
        with pytest.raises(Stale, match="no such job"):
            store.jobs.begin("0" * 32, fence, "w1", "i1", 30)

    def test_who_may_renew(self, store):
        job = store.jobs.accept(NewJob(type="noop")).job
        claim = claim_one(store, job.id, lease=5)
        before = claim.lease_until
        assert store.jobs.renew(job.id, 1, 50).lease_until > before
        run(store, job.id, 1)
        with pytest.raises(Stale):
            store.jobs.renew(job.id, 1, 50)
        with pytest.raises(Stale):
            store.jobs.renew(job.id, 1, 50, worker_id="w1", incarnation="i2")
        renewal = store.jobs.renew(job.id, 1, 50, **PAIR, progress={"done": 0.5})
        assert not renewal.cancel
        assert store.jobs.get(job.id).progress == {"done": 0.5}
        assert [event.data for event in store.events.after(job.id, 0) if event.kind == "progress"] == [{"done": 0.5}]

    def test_a_result_is_committed_whole_and_once(self, store):
        job_id, fence = begun(store, client_id="c")
        done = store.jobs.complete(job_id, fence, **PAIR, result={"x": [1, "é"]}, usage={"tokens": 3}, seconds=0.5)
        again = store.jobs.complete(job_id, fence, **PAIR, result={"x": 2}, usage=None, seconds=9)
        assert done == again == store.jobs.get(job_id, with_result=True)
        assert store.jobs.result(job_id) == {"x": [1, "é"]}
        assert store.jobs.get(job_id).result is None
        with store._database.read() as session:
            [usage] = session.all("SELECT * FROM usage", {})
            [kept] = session.all("SELECT * FROM results", {})
        assert (usage["client_id"], usage["seconds"], json.loads(usage["units"])) == ("c", 0.5, {"tokens": 3})
        assert kept["fence"] == fence
        assert statuses(store, job_id) == ["queued", "running", "completed"]
        assert store.jobs.attempts(job_id)[0].outcome == "completed"
        for move in (
            lambda: store.jobs.complete(
                job_id, fence, worker_id="w2", incarnation="i1", result={}, usage=None, seconds=1
            ),
            lambda: store.jobs.fail(job_id, fence, code="error", message="", retry=True),
            lambda: store.jobs.renew(job_id, fence, 5, **PAIR),
            lambda: store.jobs.release(job_id, fence),
        ):
            with pytest.raises(Stale, match="completed"):
                move()

    def test_the_same_completion_twenty_times_at_once(self, store):
        job_id, fence = begun(store)
        gate = threading.Barrier(20)

        def complete(number: int) -> dict:
            gate.wait(60)
            return store.jobs.complete(job_id, fence, **PAIR, result={"n": number}, usage={}, seconds=1).result

        with ThreadPoolExecutor(20) as pool:
            results = list(pool.map(complete, range(20)))
        assert all(result == store.jobs.result(job_id) for result in results)

    def test_a_result_that_is_not_json_changes_nothing(self, store):
        job_id, fence = begun(store)
        with pytest.raises(ValueError):
            store.jobs.complete(job_id, fence, **PAIR, result={"x": float("inf")}, usage=None, seconds=1)
        assert store.jobs.get(job_id).status is JobStatus.RUNNING

    def test_a_large_result(self, store):
        job_id, fence = begun(store)
        store.jobs.complete(job_id, fence, **PAIR, result={"x": "é" * 200_000}, usage=None, seconds=1)
        assert len(store.jobs.result(job_id)["x"]) == 200_000

    def test_what_was_said_when_it_was_placed_stays_with_the_attempt(self, store):
        ids = [store.jobs.accept(NewJob(type="noop")).job.id for _ in range(3)]
        claims = [claim_one(store, job_id) for job_id in ids]
        said = [{"at": "now", "workers": [{"worker": f"w{n}"}], "others": {}} for n in range(3)]
        placements = [Placement(claim.job.id, claim.fence, one) for claim, one in zip(claims, said, strict=True)]
        store.jobs.keep_verdicts([*placements, Placement("gone", 1, {}), Placement(ids[0], 9, {})])
        store.jobs.release(ids[0], 1)
        claim_one(store, ids[0])
        assert [attempt.verdicts for attempt in store.jobs.attempts(ids[0])] == [said[0], None]
        assert [store.jobs.attempts(job_id)[0].verdicts for job_id in ids[1:]] == said[1:]

    def test_release_counts_nothing(self, store):
        job = store.jobs.accept(NewJob(type="noop")).job
        claim_one(store, job.id)
        assert store.jobs.release(job.id, 1, delay=10).status is JobStatus.QUEUED
        assert not store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")
        pass_time(store, 11)
        claim = claim_one(store, job.id)
        assert (claim.fence, claim.job.attempts, claim.job.losses) == (2, 0, 0)
        run(store, job.id, 2)
        with pytest.raises(Stale, match="has begun"):
            store.jobs.release(job.id, 2)


class TestFailure:
    def test_an_error_is_tried_elsewhere_and_then_final(self, store):
        job = store.jobs.accept(NewJob(type="noop")).job
        for number in (1, 2, 3):
            claim = claim_one(store, job.id)
            assert claim.excluded == {f"w{n}" for n in range(1, number)}
            store.jobs.begin(job.id, claim.fence, f"w{number}", "i", 30)
            failed = store.jobs.fail(
                job.id,
                claim.fence,
                code="error",
                message="no\x00pe",
                retry=True,
                worker_id=f"w{number}",
                incarnation="i",
            )
        assert (failed.status, failed.error_code, failed.error) == (JobStatus.FAILED, "error", "no\ufffdpe")
        assert statuses(store, job.id) == ["queued", "running"] * 3 + ["failed"]
        assert [attempt.outcome for attempt in store.jobs.attempts(job.id)] == ["failed"] * 3

    def test_three_dead_workers_are_poison(self, store):
        job = store.jobs.accept(NewJob(type="noop")).job
        for number in (1, 2, 3):
            claim = claim_one(store, job.id)
            failed = store.jobs.fail(
                job.id,
                claim.fence,
                code="worker_died",
                message="signal 11",
                retry=True,
                death=True,
                worker_id=f"w{number}",
                max_attempts=20,
            )
        assert (failed.status, failed.error_code, failed.deaths) == (JobStatus.FAILED, "poisoned", 3)
        assert failed.killed == failed.excluded == {"w1", "w2", "w3"}

    @pytest.mark.parametrize(
        ("code", "retry", "status"),
        [
            ("invalid_params", False, JobStatus.FAILED),
            ("timeout", True, JobStatus.TIMEOUT),
            ("cancelled", True, JobStatus.QUEUED),
        ],
    )
    def test_codes(self, store, code, retry, status):
        job_id, fence = begun(store)
        assert store.jobs.fail(job_id, fence, code=code, message="", retry=retry, **PAIR).status is status

    def test_another_process_can_not_fail_it(self, store):
        job_id, fence = begun(store)
        with pytest.raises(Stale):
            store.jobs.fail(job_id, fence, code="error", message="", retry=True, worker_id="w1", incarnation="i0")


class TestCancel:
    def test_queued_running_and_final(self, store):
        queued = store.jobs.accept(NewJob(type="noop", client_id="a")).job.id
        assert store.jobs.cancel(queued, client_id="b") is None
        assert store.jobs.cancel(queued, client_id="a").status is JobStatus.CANCELLED
        assert store.jobs.cancel(queued).status is JobStatus.CANCELLED
        assert store.jobs.cancel("f" * 32) is None
        running, fence = begun(store)
        asked = store.jobs.cancel(running)
        assert (asked.status, asked.cancel_requested) == (JobStatus.RUNNING, True)
        assert store.jobs.renew(running, fence, 30, **PAIR).cancel
        ended = store.jobs.fail(running, fence, code="cancelled", message="", retry=False, **PAIR)
        assert ended.status is JobStatus.CANCELLED
        assert statuses(store, queued) == ["queued", "cancelled"]

    def test_one_whose_worker_is_silent_ends_with_its_lease(self, store):
        job_id, _ = begun(store)
        store.jobs.cancel(job_id)
        assert store.jobs.sweep(max_wait=1e6) == 0
        pass_time(store, 31)
        assert not store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")
        assert store.jobs.sweep(max_wait=1e6) == 1
        assert store.jobs.get(job_id).status is JobStatus.CANCELLED


class TestSweep:
    def test_nothing_to_do(self, store):
        begun(store)
        store.jobs.accept(NewJob(type="noop"))
        assert store.jobs.sweep(max_wait=1e6) == 0

    def test_who_waited_too_long(self, store):
        job_id = store.jobs.accept(NewJob(type="noop")).job.id
        claimed = store.jobs.accept(NewJob(type="other")).job.id
        store.jobs.claim(types=["other"], limit=1, lease=30, holder="d")
        pass_time(store, 100)
        assert store.jobs.sweep(max_wait=99, limit=1) == 1
        assert store.jobs.sweep(max_wait=99) == 1
        assert {store.jobs.get(one).error_code for one in (job_id, claimed)} == {"queue_timeout"}

    def test_an_attempt_that_does_not_end(self, store):
        job_id, fence = begun(store, timeout_seconds=10)
        pass_time(store, 41)
        store.jobs.renew(job_id, fence, 30, **PAIR)
        assert not store.jobs.peek(types=["noop"], limit=1)
        assert store.jobs.sweep(max_wait=1e6) == 1
        assert store.jobs.get(job_id).status is JobStatus.TIMEOUT

    def test_a_job_that_is_always_lost(self, store):
        job = store.jobs.accept(NewJob(type="noop", timeout_seconds=1000)).job
        for number in range(1, 11):
            claim = claim_one(store, job.id)
            assert claim.fence == number
            run(store, job.id, claim.fence)
            pass_time(store, 31)
        assert not store.jobs.claim(types=["noop"], limit=1, lease=30, holder="d")
        assert store.jobs.sweep(max_wait=1e6) == 1
        lost = store.jobs.get(job.id)
        assert (lost.status, lost.error_code, lost.losses) == (JobStatus.FAILED, "lost", 10)

    def test_a_claim_that_nobody_begins_is_no_loss(self, store):
        job = store.jobs.accept(NewJob(type="noop")).job
        for _ in range(12):
            claim_one(store, job.id)
            pass_time(store, 31)
        assert store.jobs.get(job.id).losses == 0
        assert claim_one(store, job.id)


class TestWorkersThatComeBack:
    """R10: what lost jobs elsewhere (procrastinate #1518)."""

    def test_a_worker_restarts_under_the_same_id(self, store):
        job_id, fence = begun(store)
        with pytest.raises(Stale):
            store.jobs.begin(job_id, fence, "w1", "i2", 30)
        with pytest.raises(Stale):
            store.jobs.renew(job_id, fence, 30, worker_id="w1", incarnation="i2")
        pass_time(store, 30.1)
        assert claim_one(store, job_id).fence == fence + 1

    def test_the_row_of_a_dead_worker_is_deleted(self, store):
        store.workers.upsert(WorkerFacts(id="w1", name="one"))
        job_id, fence = begun(store)
        with store._database.write() as session:
            session.run("DELETE FROM workers WHERE id = 'w1'", {})
        pass_time(store, 30.1)
        assert claim_one(store, job_id).fence == fence + 1


class TestReads:
    def test_pages_newest_first(self, store):
        ids = [store.jobs.accept(NewJob(type="a", client_id="c", params={"n": n})).job.id for n in range(5)]
        store.jobs.accept(NewJob(type="b", client_id="d"))
        first = store.jobs.list(client_id="c", limit=2)
        second = store.jobs.list(client_id="c", limit=2, cursor=first.next_cursor)
        third = store.jobs.list(client_id="c", limit=2, cursor=second.next_cursor)
        assert [job.id for page in (first, second, third) for job in page.items] == ids[::-1]
        assert third.next_cursor is None
        assert store.jobs.list(client_id="c", limit=5).next_cursor is None
        assert first.items[0].params == {}
        assert len(store.jobs.list(type="b").items) == 1
        assert len(store.jobs.list(status=JobStatus.COMPLETED).items) == 0
        with pytest.raises(ValueError, match="no cursor"):
            store.jobs.list(cursor="' OR 1=1")

    def test_of_another_client(self, store):
        job_id = store.jobs.accept(NewJob(type="a", client_id="c")).job.id
        assert store.jobs.get(job_id, client_id="d") is None
        assert store.jobs.get(job_id, client_id="c") is not None

    def test_position(self, store):
        jobs = [
            store.jobs.accept(NewJob(type="a", region="oceania", allow_cross_region=n % 2 == 0)).job for n in range(6)
        ]
        assert [store.jobs.position(job.id) for job in jobs] == [1, 2, 3, 4, 5, 6]
        assert store.jobs.position(jobs[5].id, limit=3) == 3
        store.jobs.cancel(jobs[0].id)
        assert store.jobs.position(jobs[0].id) is None
        assert store.jobs.position(jobs[5].id) == 5

    def test_stats(self, store):
        assert store.jobs.stats().oldest_queued_seconds is None
        for held in (1, 2, 9):
            job_id, fence = begun(store)
            pass_time(store, held)
            store.jobs.renew(job_id, fence, 30, **PAIR)
            store.jobs.complete(job_id, fence, **PAIR, result={}, usage=None, seconds=0.1)
        begun(store)
        store.jobs.accept(NewJob(type="noop"))
        store.jobs.accept(NewJob(type="noop", region="oceania", allow_cross_region=False))
        pass_time(store, 5)
        stats = store.jobs.stats()
        assert (stats.total_queued, stats.by_type["noop"].queued, stats.by_type["noop"].running) == (2, 2, 1)
        assert stats.by_type["noop"].service_seconds == pytest.approx(2, abs=0.9)
        assert stats.oldest_queued_seconds >= 5
        assert store.jobs.stats("asia-east").total_queued == 1
        assert store.jobs.stats("oceania").total_queued == 2


class TestRemoval:
    def test_purge_leaves_nothing_of_a_client(self, store):
        done, fence = begun(store, client_id="c")
        store.jobs.complete(done, fence, **PAIR, result={"secret": "canary"}, usage=None, seconds=1)
        running, running_fence = begun(store, client_id="c", params={"secret": "canary"})
        other = store.jobs.accept(NewJob(type="noop", client_id="d")).job.id
        purged = store.jobs.purge("c")
        assert (purged.jobs, purged.usage) == (2, 1)
        with store._database.read() as session:
            for table in ("attempts", "results", "usage"):
                assert session.all(f"SELECT * FROM {table}", {}) == []
            assert {row["job_id"] for row in session.all("SELECT job_id FROM outbox", {})} == {other}
        with pytest.raises(Stale, match="no such job"):
            store.jobs.complete(running, running_fence, **PAIR, result={}, usage=None, seconds=1)
        assert store.jobs.get(other) is not None

    def test_expire_takes_old_final_jobs_only(self, store):
        old, fence = begun(store)
        store.jobs.complete(old, fence, **PAIR, result={}, usage=None, seconds=1)
        waiting = store.jobs.accept(NewJob(type="noop")).job.id
        pass_time(store, 100)
        new, fence = begun(store, priority=100)
        store.jobs.complete(new, fence, **PAIR, result={}, usage=None, seconds=1)
        assert store.jobs.expire(99) == 1
        assert store.jobs.expire(99) == 0
        assert store.jobs.get(old) is None
        assert store.jobs.get(waiting) is not None
        with store._database.read() as session:
            assert len(session.all("SELECT * FROM usage", {})) == 2

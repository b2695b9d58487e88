"""The life of jobs on a real database: step by step the same as the model's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from job_life import JobLife, ModelJob
from store_helpers import pass_time

from idlegrid.grid.job_rules import SECOND
from idlegrid.grid.store import NewJob, Store, open_store

SAME = (
    *("fence", "holder", "worker_id", "incarnation", "attempts", "errors", "deaths", "losses"),
    *("killed", "excluded", "cancel_requested", "error_code"),
)


class LifeInAStore(JobLife):
    """Every step is done on the model and in the store; both must agree on what it changed."""

    has_real = True
    url: str
    lives = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).lives += 1
        self.client = f"life {self.lives}"
        self.type = f"type {self.lives}"
        self.store = open_store(self.url, timeout=30)

    def teardown(self) -> None:
        super().teardown()
        self.store.jobs.purge(self.client)
        self.store.close()

    def real(self, operation: str, job: ModelJob | None, **how: Any) -> Any:
        jobs = self.store.jobs
        match operation, job:
            case (("accept" | "accept again"), ModelJob()):
                new = NewJob(
                    type=self.type,
                    client_id=self.client,
                    priority=how.get("priority", 0),
                    timeout_seconds=how.get("timeout", 1),
                )
                accepted = jobs.accept(new, idempotency_key=job.name, body_sha256="b")
                assert accepted.created == (operation == "accept")
                return accepted.job.id
            case "claim", _:
                return [claim.job.id for claim in jobs.claim(types=[self.type], holder="d", **how)]
            case "fail", ModelJob():
                failure = {name: getattr(how["failure"], name) for name in how["failure"].__slots__}
                return jobs.fail(job.id, how["fence"], max_attempts=3, **failure)
            case "complete", ModelJob():
                return jobs.complete(job.id, result={"by": how["fence"]}, usage={}, seconds=1.0, **how)
            case (("begin" | "renew" | "hand_back" | "release" | "cancel"), ModelJob()):
                return getattr(jobs, operation)(job.id, **how)
            case "sweep", _:
                return jobs.sweep(**how)
            case "pass time", _:
                return pass_time(self.store, how["seconds"])
            case "restart", _:
                self.store.close()
                self.store = open_store(self.url, timeout=30)
        return None

    def compare(self, job: ModelJob) -> None:
        found = self.store.jobs.get(job.id, with_result=True)
        assert found is not None
        assert found.status is job.state.status
        for name in SAME:
            assert getattr(found, name) == getattr(job.state, name), name
        for name in ("lease_until", "started_at", "deadline", "completed_at"):
            assert (getattr(found, name) is None) == (getattr(job.state, name) is None), name
        assert found.result == ({"by": job.results[0]} if job.results else None)
        assert found.created_at is not None
        assert found.not_before is not None
        rests = (job.state.not_before - job.state.created_at) / SECOND
        assert (found.not_before - found.created_at).total_seconds() == pytest.approx(rests, abs=49)
        if job.state.lease_until is not None and found.lease_until is not None:
            left = (job.state.lease_until - job.state.created_at) / SECOND
            assert (found.lease_until - found.created_at).total_seconds() == pytest.approx(left, abs=49)


@pytest.mark.slow
def test_a_store_lives_as_the_model(store_url: str, store: Store):
    life = type("Life", (LifeInAStore,), {"url": store_url})
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    with store._database.read() as session:
        assert session.all("SELECT * FROM jobs", {}) == []

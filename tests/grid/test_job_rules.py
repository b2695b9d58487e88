"""The rules of a job's life: the refusals one by one, and all of them in any order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from job_life import JobLife

from idlegrid.grid import job_rules as rules
from idlegrid.grid.job_rules import SECOND, Failure, JobState, Stale
from idlegrid.grid.jobs import JobStatus

TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("protection", ["_check_fence", "_check_pair"])
def test_the_life_of_jobs_notices_a_missing_protection(protection, monkeypatch):
    """The control: without it a job has two results, or a final one changes."""
    monkeypatch.setattr(rules, protection, lambda *_: None)
    once = settings(
        max_examples=300,
        stateful_step_count=50,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(JobLife, settings=once)


QUEUED = JobState(created_at=0, timeout=100 * SECOND)
CLAIMED = rules.claim(QUEUED, 0, holder="d", lease=30 * SECOND)
BEGUN = rules.begin(CLAIMED, 0, 1, worker_id="w", incarnation="i", lease=30 * SECOND)


def failed(job: JobState, **how: object) -> JobState:
    return rules.fail(job, 0, job.fence, Failure(code="error", message="m", **how), max_attempts=3)


def test_a_claim_waits_for_its_time():
    later = replace(QUEUED, not_before=5)
    assert rules.claim(later, 4, holder="d", lease=1) is None
    assert rules.claim(later, 5, holder="d", lease=1).fence == 1


def test_a_lease_is_good_until_its_last_moment():
    assert rules.claim(BEGUN, 30 * SECOND, holder="e", lease=1) is None
    again = rules.claim(BEGUN, 30 * SECOND + 1, holder="e", lease=1)
    assert (again.fence, again.losses, again.worker_id, again.outcome) == (2, 1, None, "lost")


def test_a_claim_that_nobody_began_is_no_loss():
    assert rules.claim(CLAIMED, 31 * SECOND, holder="e", lease=1).losses == 0


@pytest.mark.parametrize(
    "move",
    [
        lambda job, fence: rules.begin(job, 0, fence, worker_id="w", incarnation="i", lease=1),
        lambda job, fence: rules.renew(job, 0, fence, lease=1, worker_id="w", incarnation="i"),
        lambda job, fence: rules.complete(job, 0, fence, worker_id="w", incarnation="i"),
        lambda job, fence: rules.fail(job, 0, fence, Failure(code="error"), max_attempts=3),
        lambda job, fence: rules.hand_back(job, 0, fence, worker_id="w", incarnation="i"),
        lambda job, fence: rules.release(job, 0, fence, delay=0),
    ],
)
def test_an_old_fence_and_a_job_at_rest_are_refused(move):
    with pytest.raises(Stale, match="fence 0 is old"):
        move(BEGUN, 0)
    with pytest.raises(Stale, match="is queued"):
        move(QUEUED, 0)
    with pytest.raises(Stale, match="is cancelled"):
        move(rules.cancel(QUEUED, 0), 0)


def test_a_job_that_is_to_be_cancelled_is_not_tried_again():
    asked = rules.cancel(BEGUN, 0)
    assert failed(asked).status is JobStatus.CANCELLED
    assert rules.complete(asked, 0, 1, worker_id="w", incarnation="i").status is JobStatus.COMPLETED
    assert rules.claim(asked, 31 * SECOND, holder="d", lease=1) is None
    assert rules.sweep(asked, 31 * SECOND, max_wait=10**12).status is JobStatus.CANCELLED


def test_deaths_on_one_worker_are_no_poison_but_an_end():
    job = QUEUED
    for _ in range(3):
        job = failed(rules.claim(replace(job, not_before=0), 0, holder="d", lease=1), death=True, worker_id="w")
    assert (job.status, job.error_code, len(job.killed)) == (JobStatus.FAILED, "error", 1)


def test_deaths_on_workers_unknown_count_as_distinct():
    job = QUEUED
    for _ in range(3):
        job = failed(rules.claim(job, 0, holder="d", lease=1), death=True)
    assert (job.error_code, job.excluded) == ("poisoned", frozenset())


def test_an_attempt_that_was_lost_before_its_deadline_is_no_timeout():
    """The grid was down from 30 s to 1000 s: the worker's silence began long before the time was over."""
    assert rules.sweep(BEGUN, 1000 * SECOND, max_wait=10**12) is None
    assert rules.claim(BEGUN, 1000 * SECOND, holder="d", lease=1) is not None


def given_up(before: int, *, refused: bool = False) -> JobState:
    return rules.hand_back(BEGUN, 0, 1, worker_id="w", incarnation="i", before=before, refused=refused, rest=2 * SECOND)


def test_a_job_that_was_handed_back_waits_again_at_once_and_nothing_is_counted():
    job = given_up(0)
    assert (job.status, job.not_before, job.outcome) == (JobStatus.QUEUED, 0, "handed_back")
    assert (job.errors, job.deaths, job.losses, job.excluded, job.error_code) == (0, 0, 0, frozenset(), None)
    assert rules.claim(job, 0, holder="d", lease=1).fence == 2


def test_a_donor_that_gave_a_job_up_three_times_is_avoided_and_the_job_rests():
    assert [given_up(n).excluded for n in range(4)] == [frozenset(), frozenset(), {"w"}, {"w"}]
    assert [given_up(n).not_before // SECOND for n in (0, 1, 2, 3, 1000)] == [0, 0, 10, 14, 62]


def test_a_refused_job_rests_longer_each_time():
    assert [given_up(n, refused=True).not_before // SECOND for n in (0, 1, 2, 1000)] == [2, 6, 10, 62]
    assert given_up(0, refused=True).outcome == "refused_by_donor"


def test_only_the_process_that_began_it_hands_it_back_and_anybody_refuses_what_none_began():
    with pytest.raises(Stale, match="not with process j"):
        rules.hand_back(BEGUN, 0, 1, worker_id="w", incarnation="j")
    assert rules.hand_back(CLAIMED, 0, 1, worker_id="w", incarnation="j").status is JobStatus.QUEUED


def test_handing_back_what_is_to_be_cancelled_ends_it():
    asked = rules.cancel(BEGUN, 0)
    job = rules.hand_back(asked, 0, 1, worker_id="w", incarnation="i")
    assert (job.status, job.outcome) == (JobStatus.CANCELLED, "cancelled")

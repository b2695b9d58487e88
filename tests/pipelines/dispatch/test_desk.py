"""A worker's desk: what runs is handed back within the moment, and what the owner's limits refuse is not begun."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest

from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import Ask, JobStatus
from idlegrid.grid.verdicts import Reason
from idlegrid.pipelines.dispatch.desk import Desk
from idlegrid.pipelines.dispatch.doors import Doors
from idlegrid.pipelines.dispatch.runner import Outcome
from idlegrid.pipelines.dispatch.slots import SlotGuard
from idlegrid.pipelines.dispatch.spool import LETTER, MARK, Spool, handed_back
from idlegrid.pipelines.dispatch.work_order import Identity

pytestmark = pytest.mark.slow
DEADLINE = 60.0
NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
LONG = {"seconds": 600}


@pytest.fixture
def desks(service, tmp_path):
    """Makes desks of worker `w`, which share a spool as processes one after the other do."""
    made = []

    def make():
        doors = Doors(service)
        made.append(Desk("w", doors=doors, spool=Spool(tmp_path / "spool", doors)))
        return made[-1]

    make.files = lambda kind: list((tmp_path / "spool").glob(f"*{kind}"))
    yield make
    for desk in made:
        desk.close()


def aside(desk, order):
    """Run it in a thread; call the answer for the outcome."""
    begun, told = threading.Event(), []
    desk.on_change(begun.set)

    def run():
        told.append(desk.run(order))

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(DEADLINE)

    def outcome():
        thread.join(DEADLINE)
        return told[0]

    return outcome


def begun(service, claim):
    """Wait until the attempt is bound to its worker."""
    deadline = time.monotonic() + DEADLINE
    while service.store.jobs.get(claim.job.id).worker_id is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def attempts(service, claim):
    return [one.outcome for one in service.store.jobs.attempts(claim.job.id)]


@pytest.mark.parametrize("deaf", [False, True])
def test_what_runs_is_handed_back_and_counts_as_nothing(service, desks, deaf):
    desk = desks()
    claim, order = service.claimed("trial", {"seconds": 5 if deaf else 600, "deaf": deaf})
    outcome = aside(desk, order)
    begun(service, claim)
    assert desk.hand_back("paused by its owner") == 1
    assert desk.spool.flush(DEADLINE)
    job = service.store.jobs.get(claim.job.id)
    assert (job.status, job.errors, job.deaths, job.losses) == (JobStatus.QUEUED, 0, 0, 0)
    assert job.excluded == frozenset()
    assert attempts(service, claim) == ["handed_back"]
    assert outcome() is Outcome.HANDED_BACK
    assert [line.outcome for line in desk.lines()[1]] == ["handed_back"]
    assert not desks.files(MARK)


def test_it_is_done_once_by_whoever_comes_next(service, desks):
    desk = desks()
    claim, order = service.claimed("trial", {"value": 7, "seconds": 0.5, "deaf": True})
    outcome = aside(desk, order)
    begun(service, claim)
    desk.hand_back("a program of its owner")
    desk.spool.flush(DEADLINE)
    _, again = service.claim(claim.job.id)
    outcome()
    desk.spool.close()
    desk.close()
    assert desks().run(again) is Outcome.TOLD
    job = service.store.jobs.get(claim.job.id, with_result=True)
    assert (job.status, job.result["value"]) == (JobStatus.COMPLETED, 7)
    assert attempts(service, claim) == ["handed_back", "completed"]


def test_nothing_begins_after_it(service, desks):
    desk = desks()
    desk.hand_back("paused by its owner")
    claim, order = service.claimed("trial")
    assert desk.run(order) is Outcome.DECLINED
    assert attempts(service, claim) == ["handed_back"]
    assert service.store.jobs.get(claim.job.id).attempts == 0


def test_while_the_service_is_away_it_is_kept_and_told_by_the_next_process(service, desks):
    desk = desks()
    claim, order = service.claimed("trial", LONG)
    outcome = aside(desk, order)
    begun(service, claim)
    service.away = True
    assert desk.hand_back("paused by its owner") == 1
    assert outcome() is Outcome.HANDED_BACK
    assert not desk.spool.flush(0.05)
    desk.close()
    assert desks.files(LETTER)
    service.away = False
    assert desks().spool.flush(DEADLINE)
    assert attempts(service, claim) == ["handed_back"]


def test_a_result_that_is_being_told_is_kept(service, desks):
    desk = desks()
    claim, order = service.claimed("trial", {"value": 3})
    telling, go_on = threading.Event(), threading.Event()
    complete = desk.doors.complete

    def slow(*words):
        if threading.current_thread().name != "idlegrid-spool":
            telling.set()
            go_on.wait(DEADLINE)
        return complete(*words)

    desk.doors.complete = slow
    outcome = aside(desk, order)
    assert telling.wait(DEADLINE)
    assert desk.hand_back("paused by its owner") == 0
    assert desk.spool.flush(DEADLINE)
    job = service.store.jobs.get(claim.job.id, with_result=True)
    assert (job.status, job.result["value"]) == (JobStatus.COMPLETED, 3)
    go_on.set()
    assert outcome() is Outcome.TOLD, "said twice, it is still one end"


def test_a_mark_of_a_process_that_was_killed_for_its_owner_is_a_hand_back(service, desks, tmp_path):
    for blame, outcome in ((None, "died"), (lambda order, who: handed_back(order, who, "killed"), "handed_back")):
        claim, order = service.claimed("trial")
        dead = Identity("w", "killed")
        doors = Doors(service)
        doors.progress(order, dead, {"fence": order.fence, "incarnation": "killed", "begin": True}, 5)
        spool = Spool(tmp_path / f"spool-{outcome}", doors)
        spool.mark(order, dead)
        spool.start(Identity("w", "agent"), blame)
        assert spool.flush(DEADLINE)
        assert attempts(service, claim) == [outcome]
        spool.close()
        doors.close()


def test_what_was_about_to_begin_is_handed_back_too_and_no_death(service, tmp_path):
    for blame, outcome in ((None, None), (lambda order, who: handed_back(order, who, "killed"), "handed_back")):
        claim, order = service.claimed("trial")
        doors = Doors(service)
        spool = Spool(tmp_path / f"spool-{outcome}", doors)
        spool.expect(order, Identity("w", "killed"))
        assert [one.name for one, _ in spool.marked()] == [order.name]
        spool.start(Identity("w", "agent"), blame)
        assert spool.flush(DEADLINE)
        assert attempts(service, claim) == [outcome]
        assert not spool.marked()
        spool.close()
        doors.close()


def guard(**limits):
    return SlotGuard(Donor(id="w", supported_types=frozenset({"trial"}), limits=Limits(**limits)), now=lambda: NOON)


def test_what_the_limits_refuse_is_told_and_not_begun(service, desks):
    desk = desks()
    desk.slots = guard(working_hours_start=22, working_hours_end=6)
    claim, order = service.claimed("trial")
    assert desk.run(order) is Outcome.DECLINED
    job = service.store.jobs.get(claim.job.id)
    assert (job.status, job.attempts, job.errors) == (JobStatus.QUEUED, 0, 0)
    assert attempts(service, claim) == ["refused_by_donor"]
    assert [(one.job_id, one.reason) for one in desk.slots.declined] == [(order.name, "outside_working_hours")]


def test_what_is_done_gives_its_slot_back(service, desks):
    desk = desks()
    desk.slots = guard(max_jobs_per_hour=2)
    outcomes = [desk.run(service.claimed("trial")[1]) for _ in range(3)]
    assert outcomes == [Outcome.TOLD, Outcome.TOLD, Outcome.DECLINED]
    assert [one.reason for one in desk.slots.declined] == ["hourly_cap"]


def test_work_that_is_no_attempt_shares_the_slots_and_is_told_when_all_is_given_up(desks):
    desk, stopped = desks(), []
    desk.slots = SlotGuard(Donor(id="w", supported_types=frozenset({"t"}), limits=Limits(max_jobs_per_hour=3)))
    assert desk.admit("direct-1", Ask(type="t"), stopped.append)
    assert desk.admit("direct-2", Ask(type="t"), stopped.append).reason is Reason.CONCURRENCY
    assert (desk.guests, desk.idle.is_set(), [line.job_id for line in desk.lines()[0]]) == (1, False, ["direct-1"])
    desk.dismiss("direct-1", "completed")
    assert (desk.guests, desk.idle.is_set()) == (0, True)
    assert [(line.job_id, line.outcome) for line in desk.lines()[1]] == [("direct-1", "completed")]
    assert desk.admit("direct-3", Ask(type="t"), stopped.append)
    assert desk.hand_back("the owner plays") == 0  # nothing of it is kept, so nothing is handed back
    assert stopped == ["the owner plays"]
    desk.dismiss("direct-3", "handed_back")
    assert desk.admit("direct-4", Ask(type="t"), stopped.append).reason is Reason.PAUSED
    assert desk.slots.load().running == 0

"""The donor's own count of what it does: no more begins than its owner allows, whoever sends it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid.donors import Donor, Limits
from idlegrid.grid.jobs import Ask
from idlegrid.grid.verdicts import Reason
from idlegrid.pipelines.dispatch.slots import SlotGuard

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
ASK = Ask(type="trial")


class Clock:
    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now


def donor(**facts):
    limits = {name: facts.pop(name) for name in list(facts) if name in Limits.__slots__}
    return Donor(id="w", supported_types=frozenset({"trial"}), limits=Limits(**limits), **facts)


def test_the_hour_is_counted_and_slides():
    clock = Clock()
    guard = SlotGuard(donor(max_jobs_per_hour=2), now=clock)
    guard.started_before([NOON.timestamp() - 3000, NOON.timestamp() - 5000])
    assert guard.take("a", ASK)
    guard.give("a")
    refused = guard.take("b", ASK)
    assert refused.reason is Reason.HOURLY_CAP
    clock.now = refused.retry_at
    assert guard.take("b", ASK)


@pytest.mark.parametrize(("held", "reason"), [({"paused": True}, Reason.PAUSED), ({"draining": True}, Reason.DRAINING)])
def test_what_its_owner_says_holds_at_once(held, reason):
    guard = SlotGuard(donor(), now=Clock())
    guard.hold(**held)
    assert guard.take("a", ASK).reason is reason
    guard.hold(paused=False, draining=False)
    assert guard.take("a", ASK)


def test_limits_change_while_it_works():
    guard = SlotGuard(donor(), now=Clock())
    assert guard.take("a", ASK)
    assert guard.take("b", ASK).reason is Reason.CONCURRENCY
    guard.set_donor(donor(max_concurrent_jobs=2))
    assert guard.take("b", ASK)
    with pytest.raises(ValueError, match="keeps its id"):
        guard.set_donor(Donor(id="somebody else"))


def test_who_needs_no_slot_any_more_leaves_it():
    guard = SlotGuard(donor(), now=Clock())
    assert guard.take("a", ASK)
    guard.secede(["a", "never here"])
    assert guard.take("b", ASK)
    guard.give("a")
    guard.give("b")
    assert guard.load().running == 0


def test_memory_that_others_hold_is_not_there():
    facts = {"gpu_model": "A", "gpu_memory_gb": 10.0, "gpu_count": 1}
    guard = SlotGuard(donor(**facts), now=Clock(), memory=lambda: (6.0, frozenset({"resident"})))
    assert guard.take("a", Ask(type="trial", gpu_memory_gb=5.0)).reason is Reason.GPU_MEMORY
    assert guard.take("b", Ask(type="trial", gpu_memory_gb=5.0, model="resident"))


def test_the_rate_is_asked_by_the_lot():
    guard = SlotGuard(donor(acceptance_rate=0.5), now=Clock(), draw=lambda name, donor_id, now: float(name))
    assert guard.take("0.7", ASK).reason is Reason.ACCEPTANCE_RATE
    assert guard.take("0.3", ASK)


@given(
    st.integers(1, 4),
    st.integers(0, 6),
    st.lists(st.tuples(st.sampled_from(["take", "give", "wait"]), st.integers(0, 9)), max_size=80),
)
def test_whatever_is_sent_the_limits_hold(slots, hourly, moves):
    clock = Clock()
    guard = SlotGuard(donor(max_concurrent_jobs=slots, max_jobs_per_hour=hourly), now=clock)
    running, starts = set(), []
    for move, number in moves:
        match move:
            case "take" if (name := str(number)) not in running:
                if guard.take(name, ASK):
                    running.add(name)
                    starts.append(clock.now)
            case "give":
                running.discard(str(number))
                guard.give(str(number))
            case "wait":
                clock.now += timedelta(minutes=7 * number)
        assert len(running) <= slots
        within = [at for at in starts if at > clock.now - timedelta(hours=1)]
        assert not hourly or len(within) <= hourly
        assert guard.load().running == len(running)

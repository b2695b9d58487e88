"""What is done about every state of a deployment: never too many placed, never a donor that just failed, no storm."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.pipelines.llm.deployment import Deployment, Phase, Replica
from idlegrid.pipelines.llm.reconcile import Patience, Place, Retire, Setbacks, reconcile

PATIENCE = Patience()
NOW = 1000.0
WANTED = Deployment(model="m", replicas=2)


def a_replica(epoch, phase=Phase.READY, donor="", **fields):
    donor = donor or ("" if phase is Phase.PLACING else f"d{epoch}")
    ready_at = fields.pop("ready_at", NOW - 5 if phase is Phase.READY else None)
    return Replica(epoch=epoch, phase=phase, since=NOW - 10, donor_id=donor, ready_at=ready_at, **fields)


def decide(*replicas, setbacks=None, now=NOW, wanted=WANTED):
    return reconcile(wanted, replicas, setbacks or Setbacks(), now, PATIENCE)


def test_nothing_to_do():
    assert decide(a_replica(1), a_replica(2)).actions == ()


def test_one_is_placed_at_a_time_and_never_where_another_is():
    [place] = decide().actions
    assert place.excluded == frozenset()
    assert decide(a_replica(1, Phase.PLACING)).actions == ()
    [place] = decide(a_replica(1, Phase.LOADING)).actions
    assert place.excluded == {"d1"}


def test_a_lost_replica_is_replaced_at_once_elsewhere():
    decision = decide(a_replica(1), replace(a_replica(2), phase=Phase.ENDED, why="silent"))
    retire, place = decision.actions
    assert retire == Retire(2, "silent", setback=True)
    assert place.excluded == {"d1", "d2"}
    assert decision.setbacks.failures == 0


def test_a_donor_that_fails_again_is_avoided_for_longer():
    setbacks, times = Setbacks(), []
    lost = replace(a_replica(1), phase=Phase.ENDED)
    for _ in range(12):
        setbacks = setbacks.after(lost, NOW, PATIENCE)
        cooled = [seconds for seconds in range(1, 400) if not setbacks.cooling(NOW + seconds, PATIENCE)]
        times.append(cooled[0])
    assert times[:4] == [2, 4, 8, 16]
    assert times[-1] == PATIENCE.cool_most


def test_a_long_service_is_not_held_against_a_donor():
    setbacks = Setbacks({"d1": (5, 0.0)}).after(
        replace(a_replica(1), phase=Phase.ENDED, ready_at=NOW - PATIENCE.steady), NOW, PATIENCE
    )
    assert setbacks.donors["d1"] == (1, NOW)


def test_loading_that_fails_everywhere_is_tried_ever_more_rarely():
    setbacks, now, gaps = Setbacks(), NOW, []
    for n in range(12):
        failed = Replica(epoch=n, phase=Phase.ENDED, since=now, donor_id=f"d{n}", why="no such model")
        decision = decide(failed, setbacks=setbacks, now=now)
        assert [type(action) for action in decision.actions] == [Retire]
        setbacks, before = decision.setbacks, now
        while not decide(setbacks=setbacks, now=now).actions:
            now += 0.5
        gaps.append(now - before)
    assert gaps[:4] == [2, 4, 8, 16]
    assert gaps[-1] == PATIENCE.cool_most
    assert decide(a_replica(1), setbacks=setbacks, now=before).setbacks.failures == 0


def test_a_placement_that_waits_is_asked_anew_when_avoided_donors_may_be_asked_again():
    waiting = a_replica(3, Phase.PLACING, excluded=frozenset({"d1", "d9"}))
    cooling = Setbacks({"d9": (1, NOW - 1)})
    assert decide(a_replica(1), waiting, setbacks=cooling).actions == ()
    retire, place = decide(a_replica(1), waiting, setbacks=Setbacks({"d9": (1, NOW - 3)})).actions
    assert (retire.epoch, retire.setback, place.excluded) == (3, False, {"d1"})


@pytest.mark.parametrize(
    ("replica", "word", "wait"),
    [
        (replace(a_replica(1, Phase.LOADING), since=NOW - PATIENCE.load - 1), "not loaded", PATIENCE.cool),
        (a_replica(1, stalled=PATIENCE.stall + 1), "told nothing", 0),
    ],
)
def test_what_hangs_is_replaced(replica, word, wait):
    decision = decide(replica, a_replica(2))
    assert word in decision.actions[0].why
    later = decide(a_replica(2), setbacks=decision.setbacks, now=NOW + wait)
    [place] = decision.actions[1:] or later.actions
    assert place.excluded == ({"d2"} if wait else {"d1", "d2"})


def test_a_donor_that_leaves_is_replaced_before_it_is_let_go():
    leaving = a_replica(1, leaving="draining", leaving_since=NOW - 1, in_flight=3)
    [place] = decide(leaving, a_replica(2)).actions
    assert place.excluded == {"d1", "d2"}
    assert decide(leaving, a_replica(2), a_replica(3, Phase.LOADING)).actions == ()
    assert decide(leaving, a_replica(2), a_replica(3)).actions == ()  # it still serves three
    [retire] = decide(replace(leaving, in_flight=0), a_replica(2), a_replica(3)).actions
    assert (retire.epoch, retire.setback) == (1, False)


def test_a_donor_does_not_wait_for_ever():
    late = a_replica(1, leaving="draining", leaving_since=NOW - PATIENCE.drain - 1, in_flight=3)
    assert Retire(1, "its donor leaves: draining") in decide(late, a_replica(2)).actions


def test_what_is_too_many_goes_and_what_serves_stays():
    replicas = (a_replica(1, in_flight=1), a_replica(2), a_replica(3, Phase.PLACING), a_replica(4, in_flight=2))
    assert {action.epoch for action in decide(*replicas).actions} == {2, 3}
    none = Deployment(model="m", replicas=0)
    assert {action.epoch for action in decide(*replicas, wanted=none).actions} == {1, 2, 3, 4}


@st.composite
def states(draw):
    replicas = []
    for epoch in range(draw(st.integers(0, 6))):
        phase = draw(st.sampled_from(Phase))
        one = a_replica(epoch, phase, donor="" if phase is Phase.PLACING else f"d{draw(st.integers(0, 4))}")
        leaving = draw(st.booleans()) and phase is Phase.READY
        replicas.append(
            replace(
                one,
                in_flight=draw(st.integers(0, 2)),
                leaving="draining" if leaving else "",
                leaving_since=NOW - draw(st.integers(0, 100)) if leaving else None,
                excluded=draw(st.frozensets(st.sampled_from(["d0", "d1"]))),
            )
        )
    donors = draw(st.dictionaries(st.sampled_from(["d0", "d1", "d2"]), st.tuples(st.integers(1, 9), st.just(NOW - 1))))
    return replicas, Setbacks(donors, draw(st.integers(0, 5)), NOW - draw(st.integers(0, 30)))


@given(states(), st.integers(0, 3))
def test_in_every_state(state, wanted):
    replicas, setbacks = state
    deployment = Deployment(model="m", replicas=wanted)
    decision = reconcile(deployment, replicas, setbacks, NOW, PATIENCE)
    retired = [action.epoch for action in decision.actions if isinstance(action, Retire)]
    placed = [action for action in decision.actions if isinstance(action, Place)]
    assert len(set(retired)) == len(retired)
    assert {one.epoch for one in replicas if one.phase is Phase.ENDED} <= set(retired)
    assert len(placed) <= 1
    kept = [one for one in replicas if one.epoch not in retired]
    assert len([one for one in kept if not one.leaving]) + len(placed) <= wanted or not placed
    for place in placed:
        assert place.excluded >= decision.setbacks.cooling(NOW, PATIENCE)
        assert place.excluded >= {one.donor_id for one in kept if one.donor_id}
    ready = [one for one in kept if one.phase is Phase.READY]
    before = [one for one in replicas if one.phase is Phase.READY]
    overdue = {one.epoch for one in before if one.leaving and NOW - one.leaving_since > PATIENCE.drain}
    assert len(ready) >= min(wanted, len(before)) - len(overdue)  # nothing that serves is given up for nothing

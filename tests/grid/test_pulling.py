"""The pull path's policy: who of those that ask gets a waiting job, and for whom it is kept."""

from __future__ import annotations

from datetime import UTC, datetime

from idlegrid.grid.donors import IDLE, Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.placement import Donors
from idlegrid.grid.pulling import PATIENCE, Given, Waiting, give

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def donor(id_: str, **facts: object) -> Donor:
    return Donor(id=id_, **{"region": "europe-west", "supported_types": frozenset({"embedding"})} | facts)


def waiting(seconds: float = 0.0, **needs: object) -> Waiting:
    return Waiting(job_id="j", ask=Ask(**{"type": "embedding"} | needs), seconds=seconds)


def given(job: Waiting, *asking: Donor, others=(), load: Load = IDLE, lot: float = 0.0) -> Given:
    here, there = Donors((one, load) for one in asking), Donors((one, IDLE) for one in others)
    return give(job, here, there, NOW, lambda _: lot)


def test_what_suits_nobody_who_asks_waits():
    me = donor("me")
    for job in (
        waiting(type="whisper"),
        waiting(excluded=frozenset({"me"})),
        waiting(region="asia-east", allow_cross_region=False),
    ):
        assert given(job, me) == Given()
    assert given(waiting(), me) == Given(donor_id="me")
    assert given(waiting()) == Given()


def test_the_owners_limits_hold_here_too():
    shy = donor("shy", limits=Limits(acceptance_rate=0.5))
    assert given(waiting(), shy, lot=0.7) == Given()
    assert given(waiting(), shy, lot=0.3).donor_id == "shy"
    assert given(waiting(), donor("me"), load=Load(running=1)) == Given()
    assert given(waiting(), donor("me"), load=Load(draining=True)) == Given()


def test_the_best_of_those_that_ask_gets_it():
    near, far, small = donor("near"), donor("far", region="oceania"), donor("small", reliability=0.1)
    assert given(waiting(region="europe-west"), far, small, near).donor_id == "near"
    assert given(waiting(region="oceania"), near, far).donor_id == "far"
    assert given(waiting(excluded=frozenset({"near"})), far, near).donor_id == "far"


def test_a_job_is_kept_a_moment_for_a_better_donor_that_will_ask_again():
    near, far = donor("near"), donor("far", region="oceania")
    job = waiting(region="europe-west")
    assert given(job, far, others=[near]) == Given(kept_for="near")
    assert given(job, near, others=[far]) == Given(donor_id="near")
    late = waiting(PATIENCE, region="europe-west")
    assert given(late, far, others=[near]) == Given(donor_id="far"), "but not for ever"


def test_it_is_not_kept_for_who_may_not_take_it_nor_for_nobody():
    me, better = donor("me"), donor("better", gpu_memory_gb=24.0)
    assert given(waiting(), me, others=[better]).kept_for == "better"
    assert given(waiting(excluded=frozenset({"better"})), me, others=[better]).donor_id == "me"
    assert given(waiting(type="whisper"), me, others=[better]) == Given()

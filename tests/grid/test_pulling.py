"""The pull path's policy: the first waiting job that the rules give to who asks."""

from __future__ import annotations

from datetime import UTC, datetime

from idlegrid.grid.donors import IDLE, Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.pulling import PATIENCE, Offer, Waiting, offers
from idlegrid.grid.verdicts import Reason

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def donor(id_: str, **facts: object) -> Donor:
    return Donor(id=id_, **{"region": "europe-west", "supported_types": frozenset({"embedding"})} | facts)


def waiting(id_: str, seconds: float = 0.0, **needs: object) -> Waiting:
    return Waiting(job_id=id_, ask=Ask(**{"type": "embedding"} | needs), seconds=seconds)


def offered(*jobs: Waiting, to: Donor, load: Load = IDLE, others=(), lot: float = 0.0) -> list[Offer]:
    return list(offers(jobs, to, load, [(other, IDLE) for other in others], NOW, lambda job_id: lot))


def test_the_order_is_the_queues_and_what_does_not_suit_is_left_to_others():
    told = offered(
        waiting("speech", type="whisper"),
        waiting("failed here", excluded=frozenset({"me"})),
        waiting("stays in Asia", region="asia-east", allow_cross_region=False),
        waiting("mine"),
        to=donor("me"),
    )
    assert [offer.job_id for offer in told if offer.taken] == ["mine"]
    refused = [offer.verdict.reason for offer in told[:3]]
    assert refused == [Reason.TYPE_NOT_SUPPORTED, Reason.EXCLUDED, Reason.WRONG_REGION]


def test_the_owners_limits_hold_here_too():
    shy = donor("me", limits=Limits(acceptance_rate=0.5))
    assert not offered(waiting("j"), to=shy, lot=0.7)[0].taken
    assert offered(waiting("j"), to=shy, lot=0.3)[0].taken
    assert offered(waiting("j"), to=donor("me"), load=Load(running=1))[0].verdict.reason is Reason.CONCURRENCY
    assert offered(waiting("j"), to=donor("me"), load=Load(draining=True))[0].verdict.reason is Reason.DRAINING


def test_a_job_is_kept_a_moment_for_a_better_donor_that_asks_too():
    near, far = donor("near"), donor("far", region="oceania")
    job = waiting("j", region="europe-west")
    assert offered(job, to=far, others=[near]) == [Offer("j", offered(job, to=far)[0].verdict, "near")]
    assert offered(job, to=near, others=[far])[0].taken
    assert offered(waiting("j", PATIENCE, region="europe-west"), to=far, others=[near])[0].taken, "but not for ever"


def test_it_is_not_kept_for_who_may_not_take_it_nor_for_itself():
    me, better = donor("me"), donor("better", gpu_memory_gb=24.0)
    assert offered(waiting("j"), to=me, others=[better])[0].better == "better"
    assert offered(waiting("j", excluded=frozenset({"better"})), to=me, others=[better])[0].taken
    assert offered(waiting("j"), to=me, others=[me])[0].taken

"""The placement policy: exclusions, score, ties."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from idlegrid.grid.donors import Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.placement import Donors, appraise, explain, rank
from idlegrid.grid.verdicts import Reason

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def always(donor_id: str) -> float:
    return 0.0


def donor(id_: str, **facts: object) -> Donor:
    facts = {"region": "europe-west", "gpu_memory_gb": 8.0, "supported_types": frozenset({"embedding"})} | facts
    return Donor(id=id_, **facts)


HERE = Ask(type="embedding", region="europe-west")


def order(*pairs, ask=HERE, **options) -> list[str]:
    """Ids in the order of rank; each pair is a donor, or a donor and its load."""
    known = [pair if isinstance(pair, tuple) else (pair, Load()) for pair in pairs]
    return [choice.donor_id for choice in rank(ask, Donors(known), NOW, always, **options)]


def points(**facts: object) -> float:
    return appraise(HERE, donor("d", reliability=1.0, **facts), Load()).score


def test_points_of_a_gpu_by_its_memory():
    measured = {gb: points(gpu_memory_gb=gb) for gb in (0.0, 8.0, 11.9, 12.0, 23.9, 24.0, 80.0)}
    assert measured == {0.0: 10.0, 8.0: 100.0, 11.9: 100.0, 12.0: 120.0, 23.9: 120.0, 24.0: 150.0, 80.0: 150.0}


def test_the_score_is_the_product_of_its_factors_and_says_so():
    ask = Ask(type="embedding", model="m1", region="europe-west")
    far = donor("d", region="oceania", reliability=0.5, gpu_memory_gb=24.0, limits=Limits(max_concurrent_jobs=2))
    (choice,) = rank(ask, [(far, Load(running=1, loaded=frozenset({"m1"})))], NOW, always)
    assert choice.score == pytest.approx(choice.nearness * 0.5 * 150 * 0.1 * 2.0)
    assert choice.why == "nearness 0.22 × reliability 0.50 × GPU 150 × busy 0.1 × model loaded 2"
    (plain,) = rank(Ask(type="embedding"), [(donor("d", gpu_memory_gb=0.0), Load())], NOW, always)
    assert plain.why == "nearness 1.00 × reliability 0.75 × no GPU 10"


def test_what_goes_first():
    slots = Limits(max_concurrent_jobs=2)
    assert order(donor("far", region="oceania"), donor("near")) == ["near", "far"]
    assert order(donor("shaky", reliability=0.5), donor("steady", reliability=0.9)) == ["steady", "shaky"]
    assert order(donor("cpu", gpu_memory_gb=0.0, reliability=1.0), donor("gpu", reliability=0.2)) == ["gpu", "cpu"]
    assert order((donor("busy", limits=slots, reliability=1.0), Load(running=1)), donor("idle", reliability=0.2)) == [
        "idle",
        "busy",
    ]
    model = Ask(type="embedding", model="m1")
    assert order(donor("a"), (donor("b"), Load(loaded=frozenset({"m1"}))), ask=model) == ["b", "a"]


def test_ties_go_to_the_lower_latency_then_the_larger_memory_then_the_id():
    assert order(donor("a"), donor("b", avg_latency_ms=9.0), donor("c", avg_latency_ms=8.0)) == ["c", "b", "a"]
    assert order(donor("a", gpu_memory_gb=24.0), donor("b", gpu_memory_gb=48.0)) == ["b", "a"]
    assert order(donor("b"), donor("a")) == ["a", "b"]


def test_a_tie_is_not_broken_by_the_noise_of_floating_point():
    assert 0.1 + 0.2 > 0.3
    assert order(
        donor("a", reliability=0.1 + 0.2, avg_latency_ms=9.0), donor("b", reliability=0.3, avg_latency_ms=8.0)
    ) == ["b", "a"]


def test_among_admits_only_those_named():
    known = [donor("a"), donor("b"), donor("c")]
    assert order(*known, among={"b", "c", "gone"}) == ["b", "c"]
    assert order(*known, among={"b", "c"}, limit=1) == ["b"]
    assert order(*known, among=()) == []
    assert order(*known, limit=0) == []


def test_the_lot_is_drawn_only_from_donors_that_take_a_share():
    drawn = []
    rank(
        Ask(type="embedding"),
        [(donor("all"), Load()), (donor("half", limits=Limits(acceptance_rate=0.5)), Load())],
        NOW,
        lambda id_: drawn.append(id_) or 0.9,
    )
    assert drawn == ["half"]


def test_explain_names_every_donor_with_its_reason():
    known = [(donor("off"), Load(paused=True)), (donor("far", region="oceania"), Load()), (donor("near"), Load())]
    told = explain(HERE, known, NOW, always)
    assert [(d.id, verdict.reason, score is None) for d, verdict, score in told] == [
        ("near", Reason.ACCEPTED, False),
        ("far", Reason.ACCEPTED, False),
        ("off", Reason.PAUSED, True),
    ]


def test_small_differences_in_reliability_still_order_the_farthest_and_busiest():
    facts = {"region": "oceania", "gpu_memory_gb": 0.0, "limits": Limits(max_concurrent_jobs=2)}
    known = [(donor(f"d{n}", reliability=0.5 + n * 1e-5, **facts), Load(running=1)) for n in range(9)]
    far = Ask(type="embedding", region="america-south")
    assert order(*known, ask=far) == [f"d{n}" for n in reversed(range(9))]
    assert rank(far, known, NOW, always) == rank(far, Donors(known), NOW, always)

"""The index of donors: it never changes the answer, and it knows what time opens and shuts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idlegrid.grid.donors import Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.placement import Donors, explain, rank
from idlegrid.grid.regions import REGIONS
from idlegrid.grid.schedule import Schedule

NOW = datetime(2026, 3, 28, 22, 30, tzinfo=UTC)
"""The evening before Europe puts its clocks forward."""
TYPES = ("embedding", "llm", "whisper")
MODELS = ("m1", "m2", "m3")


def always(donor_id: str) -> float:
    return 0.0


limits = st.builds(
    lambda hours, **rest: Limits(working_hours_start=hours and hours[0], working_hours_end=hours and hours[1], **rest),
    hours=st.none() | st.tuples(st.integers(0, 23), st.integers(0, 23)),
    schedule=st.sampled_from((None, None, Schedule("sat-sun 00:00-24:00"), Schedule("daily 00:30-23:15"))),
    time_zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")),
    acceptance_rate=st.sampled_from((1.0, 1.0, 0.5)),
    max_concurrent_jobs=st.integers(1, 3),
    max_jobs_per_hour=st.sampled_from((0, 0, 2)),
)
loads = st.builds(
    Load,
    running=st.sampled_from((0, 0, 1, 2)),
    started_last_hour=st.integers(0, 3),
    hourly_slot_frees_at=st.none() | st.floats(0, 172800).map(lambda after: NOW.timestamp() + after),
    gpu_memory_used_gb=st.sampled_from((0.0, 4.0, 20.0)),
    loaded=st.frozensets(st.sampled_from(MODELS), max_size=2),
    paused=st.sampled_from((False, False, False, True)),
    draining=st.sampled_from((False, False, False, True)),
)


def donors_with(ids: st.SearchStrategy[str]) -> st.SearchStrategy[Donor]:
    return st.builds(
        Donor,
        id=ids,
        region=st.sampled_from(sorted(REGIONS)),
        gpu_memory_gb=st.sampled_from((0.0, 8.0, 12.0, 24.0, 80.0)),
        supported_types=st.frozensets(st.sampled_from(TYPES), max_size=2),
        models=st.frozensets(st.sampled_from(MODELS), max_size=2),
        limits=limits,
        reliability=st.sampled_from((0.0, 0.5, 0.75)) | st.floats(0, 1),
        avg_latency_ms=st.none() | st.sampled_from((5.0, 50.0)),
        pace=st.sampled_from((1.0, 0.5, 3.0)),
    )


asks = st.builds(
    Ask,
    type=st.sampled_from(TYPES),
    model=st.none() | st.sampled_from(MODELS),
    region=st.none() | st.sampled_from(sorted(REGIONS)),
    allow_cross_region=st.booleans(),
    gpu_memory_gb=st.sampled_from((0.0, 0.0, 6.0, 18.0, 60.0)),
    excluded=st.frozensets(st.sampled_from([f"d{i}" for i in range(6)]), max_size=2),
    seconds=st.sampled_from((0.0, 0.0, 60.0, 1800.0, 7200.0)) | st.floats(0, 90_000),
)
ids = st.sampled_from([f"d{i}" for i in range(12)])
moments = st.floats(0, 172800).map(lambda after: NOW + timedelta(seconds=after))
steps = st.one_of(
    st.tuples(st.just("put"), donors_with(ids), loads),
    st.tuples(st.just("put"), donors_with(ids), loads),
    st.tuples(st.just("load"), ids, loads),
    st.tuples(st.just("drop"), ids),
    st.tuples(st.just("ask"), asks, moments, st.sampled_from((None, 1, 3))),
)


def brute_force(ask, pairs, now, draw):
    """Every donor through every rule, sorted: what the policy says, without an index."""
    told = explain(ask, pairs, now, draw)
    return [(donor.id, score) for donor, verdict, score in told if verdict]


@given(st.lists(steps, max_size=60), asks, moments)
@settings(max_examples=120, deadline=None)
def test_the_index_gives_what_asking_every_donor_gives(history, last_ask, last_now):
    index, known = Donors(), {}

    def draw(donor_id):
        return 0.7 if donor_id[-1] in "13579" else 0.2

    for step, *args in [*history, ("ask", last_ask, last_now, None), ("ask", last_ask, last_now, 2)]:
        if step == "put":
            index.put(*args)
            known[args[0].id] = tuple(args)
        elif step == "load" and args[0] in known:
            index.load(*args)
            known[args[0]] = (known[args[0]][0], args[1])
        elif step == "drop":
            index.drop(*args)
            known.pop(args[0], None)
        elif step == "ask":
            ask, now, limit = args
            found = rank(ask, index, now, draw, limit=limit)
            assert [(c.donor_id, c.score) for c in found] == brute_force(ask, known.values(), now, draw)[:limit]
            assert found == rank(ask, known.values(), now, draw, limit=limit)
    assert {donor.id: (donor, load) for donor, load in index} == known


def donor(id_: str, **facts: object) -> Donor:
    facts = {"region": "europe-west", "gpu_memory_gb": 8.0, "supported_types": frozenset({"embedding"})} | facts
    return Donor(id=id_, **facts)


def test_a_donor_comes_and_goes_with_its_hours_its_slots_and_its_owner():
    night = donor("d", limits=Limits(working_hours_start=23, working_hours_end=1))
    index, ask = Donors([(night, Load())]), Ask(type="embedding")
    opens = NOW + timedelta(minutes=30)
    assert rank(ask, index, NOW, always) == []
    assert index.opened(NOW) == frozenset()
    assert index.next_change(NOW) == opens
    assert index.opened(opens) == {"d"}
    assert index.opened(opens) == frozenset()
    assert [choice.donor_id for choice in rank(ask, index, opens, always)] == ["d"]
    assert index.next_change(opens) == opens + timedelta(hours=2)
    index.load("d", Load(running=1))
    assert rank(ask, index, opens, always) == []
    index.load("d", Load(paused=True))
    assert index.opened(opens) == frozenset()
    index.load("d", Load())
    assert index.opened(opens) == {"d"}
    assert rank(ask, index, opens + timedelta(hours=2), always) == []
    assert len(rank(ask, index, opens, always)) == 1, "a clock that is put back"
    index.drop("d")
    assert index.next_change(opens) is None
    assert (len(index), "d" in index) == (0, False)


def test_a_new_score_is_no_opening_but_a_new_offer_is():
    index = Donors([(donor("d"), Load())])
    assert index.opened(NOW) == {"d"}
    index.put(donor("d", reliability=0.2))
    assert index.opened(NOW) == frozenset()
    index.put(donor("d", supported_types=frozenset({"embedding", "llm"})))
    assert index.opened(NOW) == {"d"}


@given(st.lists(st.tuples(donors_with(ids), loads), max_size=12), moments)
@settings(max_examples=100, deadline=None)
def test_nobody_opens_before_the_next_change(pairs, now):
    index = Donors(pairs)
    change = index.next_change(now)
    known, asked = {d.id: (d, load) for d, load in pairs}, [Ask(type=type_) for type_ in TYPES]
    before = [rank(ask, known.values(), now, always) for ask in asked]
    last = min(change, now + timedelta(hours=2)) if change else now + timedelta(hours=2)
    for moment in (now + (last - now) / 3, last - timedelta.resolution):
        assert [rank(ask, known.values(), moment, always) for ask in asked] == before
    assert change is None or change > now


def test_a_capped_donor_comes_back_when_its_slot_frees():
    limits = Limits(max_jobs_per_hour=1, working_hours_start=20, working_hours_end=23)
    frees = NOW + timedelta(minutes=10, microseconds=5)
    index, ask = Donors([(donor("d", limits=limits), Load())]), Ask(type="embedding")
    shuts = NOW + timedelta(minutes=30)
    assert index.next_change(NOW) == shuts
    index.load("d", Load(started_last_hour=1, hourly_slot_frees_at=frees.timestamp()))
    assert rank(ask, index, NOW, always) == []
    assert index.opened(NOW) == frozenset()
    assert index.next_change(NOW) == frees
    assert rank(ask, index, frees - timedelta(microseconds=1), always) == []
    assert len(rank(ask, index, frees, always)) == 1
    assert index.opened(frees) == {"d"}
    assert index.next_change(frees) == shuts


def test_what_is_unknown_is_said_to_be():
    index = Donors()
    with pytest.raises(KeyError):
        index.load("nobody", Load())
    with pytest.raises(KeyError):
        index.get("nobody")
    index.drop("nobody")


def test_nothing_is_kept_of_donors_and_models_that_are_gone():
    index = Donors()
    for number in range(50):
        index.put(donor("d", models=frozenset({f"m{number}"})), Load(loaded=frozenset({f"m{number}"})))
        index.settle(NOW)
    index.drop("d")
    assert index._shelves == {}
    assert not index._unsettled
    assert not index._timed

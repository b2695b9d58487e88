"""The placement policy: exclusions, score, ties, and an index that never changes the answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from idlegrid.grid.donors import Donor, Limits, Load
from idlegrid.grid.jobs import Ask
from idlegrid.grid.placement import Donors, explain, rank
from idlegrid.grid.regions import REGIONS

NOW = datetime(2026, 3, 28, 22, 30, tzinfo=UTC)
"""The evening before Europe puts its clocks forward."""
TYPES = ("embedding", "llm", "whisper")
MODELS = ("m1", "m2", "m3")


def always(donor_id: str) -> float:
    return 0.0


limits = st.builds(
    lambda hours, **rest: Limits(working_hours_start=hours and hours[0], working_hours_end=hours and hours[1], **rest),
    hours=st.none() | st.tuples(st.integers(0, 23), st.integers(0, 23)),
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
    )


asks = st.builds(
    Ask,
    type=st.sampled_from(TYPES),
    model=st.none() | st.sampled_from(MODELS),
    region=st.none() | st.sampled_from(sorted(REGIONS)),
    allow_cross_region=st.booleans(),
    gpu_memory_gb=st.sampled_from((0.0, 0.0, 6.0, 18.0, 60.0)),
    excluded=st.frozensets(st.sampled_from([f"d{i}" for i in range(6)]), max_size=2),
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
@settings(max_examples=300, deadline=None)
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

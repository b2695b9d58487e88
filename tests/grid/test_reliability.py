"""The reliability score: neutral, bounded, monotone, and fair to those who say goodbye."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.grid import reliability
from idlegrid.grid.donors import Donor
from idlegrid.grid.reliability import JOB_MEMORY, NEUTRAL, History, Score, latency, ratio_of, says, score

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)

counts = st.integers(0, 10**6)
amounts = st.floats(0, 1e9)
ratios = st.floats(1e-3, 1e3)
events = st.one_of(
    st.tuples(st.just("after_job"), st.booleans(), st.none() | ratios),
    st.tuples(st.just("after_session"), st.floats(0, 1e7), st.booleans()),
)


@st.composite
def histories(draw):
    """Whatever a life can bring."""
    history = History()
    for event, *facts in draw(st.lists(events, max_size=40)):
        history = getattr(history, event)(*facts)
    return history.joined(NOW - timedelta(hours=draw(st.integers(0, 5000)))) if draw(st.booleans()) else history


def total(history: History) -> float:
    return score(history, NOW).total


def test_a_new_donor_is_neutral_in_every_term():
    assert score(History(), NOW) == Score(NEUTRAL, NEUTRAL, NEUTRAL, NEUTRAL)
    assert total(History()) == pytest.approx(NEUTRAL)
    assert Donor(id="new").reliability == NEUTRAL


def test_the_weights_are_those_that_were_promised():
    assert [Score(*terms).total for terms in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))] == [
        0.4, 0.3, 0.2, 0.1,
    ]  # fmt: skip
    assert Score(1, 1, 1, 1).total == pytest.approx(1.0)


@given(histories())
def test_every_term_is_bounded(history):
    terms = score(history, NOW)
    for term in (terms.success, terms.stability, terms.latency, terms.seniority):
        assert 0.0 <= term <= 1.0
    assert 0.0 <= terms.total <= 1.0


@given(amounts, amounts, amounts)
def test_success_rises_with_done_and_falls_with_failed(done, failed, more):
    assert reliability.success(done + more, failed) >= reliability.success(done, failed)
    assert reliability.success(done, failed + more) <= reliability.success(done, failed)


@given(amounts, counts, counts, amounts)
def test_stability_rises_with_time_online_and_falls_with_unexpected_ends(seconds, graceful, unexpected, more):
    base = reliability.stability(seconds, graceful + unexpected, unexpected)
    assert reliability.stability(seconds + more, graceful + unexpected, unexpected) >= base
    assert reliability.stability(seconds, graceful + 1 + unexpected, unexpected) >= base
    assert reliability.stability(seconds, graceful + unexpected + 1, unexpected + 1) < base


@given(ratios, ratios)
def test_latency_falls_with_the_ratio(a, b):
    assert (reliability.latency(a) - reliability.latency(b)) * (a - b) <= 0
    assert reliability.latency(1.0) == NEUTRAL


@given(counts, counts, amounts, st.integers(0, 1000), amounts)
def test_seniority_rises_with_good_jobs_and_days_and_falls_with_failures(done, failed, seconds, jobs, more):
    base = reliability.seniority(done, failed, seconds)
    assert reliability.seniority(done + jobs, failed, seconds + more) >= base
    assert reliability.seniority(done, failed + jobs, seconds) <= base


@given(histories(), ratios)
def test_a_good_job_never_costs_and_a_failed_one_never_gains(history, ratio):
    assert total(history.after_job(True)) >= total(history) - 1e-12
    assert total(history.after_job(False)) < total(history)
    faster, slower = sorted((ratio, ratio * 2))
    assert total(history.after_job(True, faster)) >= total(history.after_job(True, slower))


@given(histories(), st.floats(0, 1e6))
def test_a_graceful_leave_costs_nothing_however_early(history, seconds):
    start = NOW - timedelta(seconds=seconds)
    online = History.left(history, start, expected=True).joined(start)
    assert total(online.left(NOW, expected=True)) >= total(online)
    assert total(online.left(NOW, expected=False)) < total(online)


@given(histories(), st.floats(0, 1e6))
def test_time_alone_never_costs(history, seconds):
    later = NOW + timedelta(seconds=seconds)
    assert score(history, later).total >= total(history) - 1e-12


def test_one_failure_does_not_ruin_a_new_donor():
    assert NEUTRAL - 0.05 < total(History().after_job(False)) < NEUTRAL


def test_a_good_donor_that_breaks_is_seen_within_its_memory_and_recovers():
    history = History()
    for _ in range(5000):
        history = history.after_job(True)
    assert score(history, NOW).success > 0.98
    for _ in range(200):
        history = history.after_job(False)
    assert score(history, NOW).success < 0.4
    for _ in range(600):
        history = history.after_job(True)
    assert score(history, NOW).success > 0.9


def test_a_session_is_counted_once_and_only_when_there_was_one():
    history = History().joined(NOW).joined(NOW + timedelta(hours=1))
    assert history.first_seen == history.online_since == NOW
    ended = history.left(NOW + timedelta(hours=2), expected=False)
    assert (ended.sessions, ended.session_seconds, ended.unexpected_ends, ended.online_since) == (1, 7200.0, 1, None)
    assert ended.left(NOW + timedelta(hours=3), expected=False) is ended
    assert history.left(NOW - timedelta(hours=1), expected=True).session_seconds == 0.0, "a clock that was put back"


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match="latency_ratio"):
        History().after_job(True, ratio)


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_a_session_of_no_length_is_refused(seconds):
    with pytest.raises(ValueError, match="session"):
        History().after_session(seconds, True)


@given(histories())
def test_a_history_survives_the_wire(history):
    assert History.from_wire(json.loads(json.dumps(history.to_wire()))) == history
    assert History.from_wire(history.to_wire() | {"of a newer version": 1}) == history


@given(histories(), histories())
def test_two_who_saw_different_things_add_up_whoever_tells_first(one, other):
    both, turned = one.beside(other), other.beside(one)
    assert both.jobs_done == one.jobs_done + other.jobs_done
    assert both.sessions == one.sessions + other.sessions
    assert both.recent_done + both.recent_failed <= max(JOB_MEMORY, 1) * 1.001
    low, high = sorted((one.latency_ratio, other.latency_ratio))
    assert low * 0.999 <= both.latency_ratio <= high * 1.001
    for term in ("success", "stability", "latency", "seniority"):
        assert getattr(score(both, NOW), term) == pytest.approx(getattr(score(turned, NOW), term), abs=1e-9)


@given(histories())
def test_nothing_beside_a_history_changes_nothing(history):
    assert score(history.beside(History()), NOW).total == pytest.approx(score(history, NOW).total, abs=1e-9)


@given(st.floats(0.02, 50.0))
def test_a_pace_can_be_read_out_of_the_latency_term(ratio):
    assert ratio_of(latency(ratio)) == pytest.approx(ratio)
    assert 0 < ratio_of(0.0) <= 100
    assert ratio_of(1.0) == 0.01


@pytest.mark.parametrize(
    ("outcome", "status", "error", "said"),
    [
        ("completed", "completed", None, True),
        ("died", "completed", None, False),
        ("lost", "cancelled", None, False),
        ("died", "failed", "poisoned", None),
        ("lost", "failed", "lost", None),
        ("failed", "completed", None, False),
        ("failed", "failed", "error", None),
        ("timeout", "timeout", "timeout", None),
        ("handed_back", "completed", None, None),
        ("refused_by_donor", "completed", None, None),
        ("released", "completed", None, None),
        ("cancelled", "cancelled", None, None),
        (None, "completed", None, None),
    ],
)
def test_what_an_attempt_says_of_its_donor(outcome, status, error, said):
    assert says(outcome, status, error) is said

"""The estimate of a wait: exact where it can be, and right within a factor of two of a simulated queue."""

from __future__ import annotations

import heapq
import random

import pytest

from idlegrid.grid.waiting import Backlog, Capacity, estimate

BOTH = frozenset({"llm", "embedding"})
LLM = frozenset({"llm"})


def test_nobody_takes_the_type():
    assert estimate("llm", Backlog(), []) is None
    assert estimate("llm", Backlog(), [Capacity(frozenset({"embedding"}), 4)]) is None


def test_a_free_slot_means_no_wait_even_if_nothing_was_ever_measured():
    assert estimate("llm", Backlog(), [Capacity(LLM, 1)]) == 0
    assert estimate("llm", Backlog(ahead={"llm": 1}, running={"llm": 2}), [Capacity(LLM, 4)]) == 0


def test_without_a_measurement_the_wait_is_not_known():
    assert estimate("llm", Backlog(running={"llm": 1}), [Capacity(LLM, 1)]) is None
    assert estimate("llm", Backlog(ahead={"llm": 5}, service_seconds={"embedding": 1}), [Capacity(LLM, 1)]) is None


def test_one_slot_half_a_job_and_those_ahead():
    backlog = Backlog(ahead={"llm": 3}, running={"llm": 1}, service_seconds={"llm": 10})
    assert estimate("llm", backlog, [Capacity(LLM, 1)]) == pytest.approx(3 * 10 + 10 / 2)


def test_slots_share_the_work():
    backlog = Backlog(ahead={"llm": 100}, running={"llm": 10}, service_seconds={"llm": 10})
    assert estimate("llm", backlog, [Capacity(LLM, 4), Capacity(LLM, 6)]) == pytest.approx(100, rel=0.05)


def test_work_that_goes_elsewhere_is_not_in_the_way():
    backlog = Backlog(ahead={"embedding": 1000}, running={"llm": 1}, service_seconds={"llm": 4, "embedding": 1})
    apart = [Capacity(LLM, 1), Capacity(frozenset({"embedding"}), 1)]
    assert estimate("llm", backlog, apart) == pytest.approx(2)
    shared = [Capacity(LLM, 1), Capacity(BOTH, 1)]
    assert estimate("llm", backlog, shared) > 400


def simulated(ahead: list[float], running: list[float], slots: int) -> float:
    """When a job starts that waits behind `ahead` (service seconds) while `running` (seconds left) run."""
    ends = [*running, *([0.0] * (slots - len(running)))]
    heapq.heapify(ends)
    for seconds in ahead:
        heapq.heappush(ends, heapq.heappop(ends) + seconds)
    return heapq.heappop(ends)


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("waiting", [0, 2, 40, 300])
def test_within_a_factor_of_two_of_a_simulated_queue(slots: int, waiting: int):
    """The mean of many queues, since one alone may be lucky; half of the work is ten times as long as the other."""
    chance = random.Random(slots * 1000 + waiting)
    seconds = {"embedding": 2.0, "llm": 20.0}

    def service(name: str) -> float:
        return seconds[name] * chance.uniform(0.5, 1.5)

    real: list[float] = []
    told: list[float] = []
    for _ in range(300):
        names = [chance.choice(sorted(seconds)) for _ in range(waiting)]
        busy = [chance.choice(sorted(seconds)) for _ in range(slots)]
        left = [service(name) * chance.random() for name in busy]
        real.append(simulated([service(name) for name in names], left, slots))
        backlog = Backlog(
            ahead={name: names.count(name) for name in seconds},
            running={name: busy.count(name) for name in seconds},
            service_seconds=seconds,
        )
        guess = estimate("llm", backlog, [Capacity(BOTH, slots)])
        assert guess is not None
        told.append(guess)
    assert sum(real) / 2 < sum(told) < sum(real) * 2
    if waiting >= 40:
        close = sum(truth / 2 < guess < truth * 2 for truth, guess in zip(real, told, strict=True))
        assert close >= 0.95 * len(real), "nearly every single one as well"

"""Calls that arrive together are done together, and each gets its own answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from idlegrid.grid.store import StoreUnavailable
from idlegrid.grid.store.grouping import Grouped, Turns


class Work:
    """Doubles numbers; the first group waits until `go` is set, so that the others arrive meanwhile."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.groups: list[list[int]] = []
        self.started, self.go = threading.Event(), threading.Event()
        self.fail = fail

    def __call__(self, items):
        self.groups.append(list(items))
        self.started.set()
        self.go.wait(60)
        if self.fail is not None and 13 in items:
            raise self.fail
        return [2 * item for item in items]


def call_together(work: Work, items: range, most: int) -> list[object]:
    """The first call is under way when the others come. Answers or errors, by item."""
    grouped = Grouped(work, most=most)

    def call(item: int) -> object:
        try:
            return grouped(item)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error

    with ThreadPoolExecutor(len(items)) as pool:
        first = pool.submit(call, items[0])
        work.started.wait(60)
        rest = [pool.submit(call, item) for item in items[1:]]
        while len(grouped._waiting) < len(rest):
            assert not first.done()
        work.go.set()
        return [one.result(60) for one in (first, *rest)]


def test_what_waits_is_done_at_once():
    work = Work()
    assert call_together(work, range(10), 4) == [2 * item for item in range(10)]
    assert [len(group) for group in work.groups] == [1, 4, 4, 1]


def test_one_that_fails_fails_alone():
    work = Work(ValueError("13"))
    answers = call_together(work, range(10, 16), 64)
    assert [answers[0], *answers[1:3], *answers[4:]] == [20, 22, 24, 28, 30]
    assert isinstance(answers[3], ValueError)


def test_what_is_not_known_to_be_done_is_not_tried_again():
    work = Work(StoreUnavailable("down"))
    answers = call_together(work, range(10, 16), 64)
    assert answers[0] == 20
    assert all(isinstance(answer, StoreUnavailable) for answer in answers[1:])
    assert len(work.groups) == 2


def test_after_an_error_the_next_call_is_served():
    grouped = Grouped(lambda items: [1 / item for item in items])
    with pytest.raises(ZeroDivisionError):
        grouped(0)
    assert grouped(2) == 0.5


def test_turns_are_in_order_and_end():
    turns, order = Turns(), []

    def wait(number: int) -> None:
        with turns.turn(60):
            order.append(number)

    with ThreadPoolExecutor(5) as pool, turns.turn(1):
        for number in range(5):
            pool.submit(wait, number)
            while len(turns._waiting) <= number:
                pass
        with pytest.raises(StoreUnavailable, match="took more than"), turns.turn(0.01):
            pass
    assert order == list(range(5))
    with turns.turn(0):
        pass

"""Calls of many threads, done together: who comes first does the work of all that came meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

from .errors import StoreUnavailable

A = TypeVar("A")
R = TypeVar("R")


class Grouped(Generic[A, R]):
    """One transaction, and one wait for the disk, for all calls that arrive while the one before is under way.

    A call alone is done at once: nothing waits for company.
    """

    def __init__(self, run: Callable[[Sequence[A]], Sequence[R]], *, most: int = 64) -> None:
        """`run` gives an answer for each item, or raises and has then changed nothing."""
        self._run = run
        self._most = most
        self._waiting: deque[_Call[A, R]] = deque()
        self._turn = Lock()

    def __call__(self, item: A) -> R:
        call: _Call[A, R] = _Call(item)
        self._waiting.append(call)
        with self._turn:
            while not call.done:
                self._run_some()
        if call.error is not None:
            raise call.error
        return call.answers[0]

    def _run_some(self) -> None:
        calls = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            answers = self._run([call.item for call in calls])
        except StoreUnavailable as error:
            for call in calls:
                call.error = StoreUnavailable(*error.args)
                call.error.__cause__ = error
        except Exception as error:  # noqa: BLE001 - it is raised where it belongs
            if len(calls) == 1:
                calls[0].error = error
            else:
                self._run_apart(calls)
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.answers.append(answer)
        for call in calls:
            call.done = True

    def _run_apart(self, calls: Sequence[_Call[A, R]]) -> None:
        """One of them spoils it for all: each gets its own answer or error."""
        for call in calls:
            try:
                call.answers.extend(self._run([call.item]))
            except Exception as error:  # noqa: BLE001 - it is raised where it belongs
                call.error = error


class _Call(Generic[A, R]):
    __slots__ = ("answers", "done", "error", "item")

    def __init__(self, item: A) -> None:
        self.item = item
        self.answers: list[R] = []
        self.error: Exception | None = None
        self.done = False

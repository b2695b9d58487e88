"""Calls of many threads, done together: who comes first does the work of all that came meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

from .errors import StoreUnavailable

A = TypeVar("A")
R = TypeVar("R")


class Grouped(Generic[A, R]):
    """One transaction, and one wait for the disk, for all calls that arrive while the one before is under way.

    A call alone is done at once: nothing waits for company. One thread leads, does a group, wakes those whose call it
    did, and hands the lead to the next that waits.
    """

    def __init__(self, run: Callable[[Sequence[A]], Sequence[R]], *, most: int = 64) -> None:
        """`run` gives an answer for each item, or raises and has then changed nothing."""
        self._run = run
        self._most = most
        self._lock = Lock()
        self._waiting: deque[_Call[A, R]] = deque()
        self._led = False

    def __call__(self, item: A) -> R:
        call: _Call[A, R] = _Call(item)
        with self._lock:
            self._waiting.append(call)
            wait, self._led = self._led, True
        if wait:
            call.woken.acquire()
        if not call.done:
            self._lead()
        if call.error is not None:
            raise call.error
        return call.answers[0]

    def _lead(self) -> None:
        """Do a group, the caller's call first in it."""
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            self._answer(calls)
        finally:
            for call in calls:
                call.done = True
                call.woken.release()
            with self._lock:
                if self._waiting:
                    self._waiting[0].woken.release()
                else:
                    self._led = False

    def _answer(self, calls: Sequence[_Call[A, R]]) -> None:
        try:
            answers = self._run([call.item for call in calls])
        except StoreUnavailable as error:
            for call in calls:
                call.error = StoreUnavailable(*error.args)
                call.error.__cause__ = error
        except Exception as error:  # noqa: BLE001 - it is raised where it belongs
            if len(calls) > 1:  # one of them spoils it for all: each gets its own answer or error
                for call in calls:
                    self._answer([call])
            else:
                calls[0].error = error
        else:
            for call, answer in zip(calls, answers, strict=True):
                call.answers.append(answer)


class _Call(Generic[A, R]):
    __slots__ = ("answers", "done", "error", "item", "woken")

    def __init__(self, item: A) -> None:
        self.item = item
        self.answers: list[R] = []
        self.error: Exception | None = None
        self.done = False
        self.woken = Lock()
        self.woken.acquire()


class Turns:
    """A lock that is given in the order in which it was asked for: among busy threads none waits for ever."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken = False
        self._waiting: deque[Lock] = deque()

    @contextmanager
    def turn(self, timeout: float) -> Iterator[None]:
        """Wait for one's turn, at most `timeout` seconds. Raises StoreUnavailable."""
        self._acquire(timeout)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, timeout: float) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=timeout):
            return
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                raise StoreUnavailable(f"other writes of this process took more than {timeout:g} s")
        # it came at the last moment

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

"""Doing the next thing while this one computes: bounded hand-over between two threads, errors included."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Full, Queue
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL = 0.5


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


@contextlib.contextmanager
def ahead(items: Iterable[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Iterate over `items` in a thread of its own, at most `depth` finished items ahead of who consumes them.

    An exception of `items` is raised in the consumer, in its place. Leaving the block ends the thread.
    """
    queue: Queue[_Item[T] | _End] = Queue(depth)
    stopped = threading.Event()

    def hand_over(item: _Item[T] | _End) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(Full):
                queue.put(item, timeout=_POLL)
                return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not hand_over(_Item(item)):
                    return
            hand_over(_End())
        except BaseException as error:  # noqa: BLE001 - raised in the consumer
            hand_over(_End(error))

    def consume() -> Iterator[T]:
        while isinstance(item := queue.get(), _Item):
            yield item.value
        if item.error is not None:
            raise item.error

    thread = threading.Thread(target=run, name="bulk-read", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        thread.join()


class Behind(Generic[T]):
    """Calls `consume` for each item in a thread of its own, at most `depth` items behind who produces them."""

    def __init__(self, consume: Callable[[T], None], depth: int = 1) -> None:
        self._consume = consume
        self._queue: Queue[_Item[T] | _End] = Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bulk-write", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand over one item; raises what `consume` raised over an earlier one."""
        if self._error is not None:
            raise self._error
        self._queue.put(_Item(item))

    def close(self) -> None:
        """Wait until all is consumed. Raises what `consume` raised."""
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the thread after what it has; never raises, and twice is fine."""
        if self._thread.is_alive():
            self._queue.put(_End())
        self._thread.join()

    def _run(self) -> None:
        while isinstance(item := self._queue.get(), _Item):
            if self._error is None:  # after an error the rest is thrown away, so that `put` never blocks
                try:
                    self._consume(item.value)
                except BaseException as error:  # noqa: BLE001 - raised in the producer
                    self._error = error

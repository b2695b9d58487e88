"""Reading a source in a thread of its own, no further ahead than is allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .done import Done
from .source import Batch, Source


class Reader:
    """Hands over batches, each against a permit. Who has taken a batch for good gives its permit back."""

    def __init__(
        self,
        source: Source,
        done: Done,
        *,
        most: int,
        permits: int,
        most_bytes: int,
        take: Callable[[Batch | None], None],
    ) -> None:
        """`done`: as it is now; it may change later. `most_bytes`: of batches that are held; beyond it one at most is
        read. `take` is called in the reader's thread, at the end with None."""
        self._source, self._most, self._take = source, most, take
        self._done = Done(done.ranges())
        self._permits, self._held = permits, 0
        self._most_bytes, self._bytes = most_bytes, 0
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self.ended = False
        """No batch will come any more."""
        self.error: BaseException | None = None
        """Why it ended, if the source failed."""
        self._thread = threading.Thread(target=self._run, name="idlegrid-stream-reader", daemon=True)
        self._thread.start()

    def give_back(self, batch: Batch) -> None:
        """It is in the sink."""
        with self._changed:
            self._held -= 1
            self._bytes -= batch.rows.nbytes
            self._changed.notify()

    def allow(self, permits: int) -> None:
        """So many batches may be under way from now on."""
        with self._changed:
            self._permits = permits
            self._changed.notify()

    def stop(self) -> None:
        """Read no more. Returns at once."""
        self._stopped.set()
        with self._changed:
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait for its thread. False: it is still inside of the source."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            batches = self._source.batches(self._done, self._most, self._stopped)
            while self._permit():
                batch = next((one for one in batches if one is not None or self._stopped.is_set()), None)
                if batch is None:
                    return
                with self._changed:
                    self._held += 1
                    self._bytes += batch.rows.nbytes
                self._take(batch)
        except BaseException as error:  # noqa: BLE001 - raised by who controls the stream
            self.error = error
        finally:
            self.ended = True
            self._take(None)

    def _permit(self) -> bool:
        """Wait until one more batch may be read. False: stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped.is_set() or self._room())
        return not self._stopped.is_set()

    def _room(self) -> bool:
        return self._held < self._permits and self._bytes < self._most_bytes

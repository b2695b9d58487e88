"""Finding the one row that kills the process which touches it: bisection as a pure state machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

CONFIRMATIONS = 2
"""A row is blamed only after a run of it alone died this often: a worker may also die by accident."""


@dataclass(frozen=True, slots=True)
class Search:
    """Rows [start, stop) of which one is suspected. A search over n rows takes at most ⌈log2 n⌉ + 2 probes.

    A run of the first half tells which half is guilty, so the other one is not run. If a death was an accident, the
    search ends on an innocent row, which then survives its confirmation.
    """

    start: int
    stop: int
    deaths_alone: int = 0
    """Runs of the last single row that died."""

    @property
    def probe(self) -> tuple[int, int]:
        """The rows to run next."""
        return self.start, self.stop if self.alone else (self.start + self.stop) // 2

    @property
    def alone(self) -> bool:
        return self.stop - self.start == 1

    @property
    def found(self) -> int | None:
        """The guilty row, once it is proven."""
        return self.start if self.deaths_alone >= CONFIRMATIONS else None

    def after(self, *, died: bool) -> Search | None:
        """The search after the probe. None: it came to an innocent row, so the deaths had another cause."""
        if self.alone:
            return replace(self, deaths_alone=self.deaths_alone + 1) if died else None
        middle = self.probe[1]
        return replace(self, stop=middle) if died else replace(self, start=middle)

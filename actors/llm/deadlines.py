"""When requests must have ended: the soonest first. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

from .sequence import Sequence


class Deadlines:
    """Of all sequences that have one. Those that ended before theirs leave no more here than a name."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []

    def watch(self, sequence: Sequence) -> None:
        """Have it told when its time is over."""
        heappush(self._heap, (sequence.deadline, sequence.rank[-1], sequence.id))

    def over(self, now: float, live: Mapping[str, Sequence]) -> list[Sequence]:
        """Those whose time is over, once each, the soonest first. `live`: request id → sequence."""
        late = []
        while self._heap and self._heap[0][0] <= now:
            _, order, request_id = heappop(self._heap)
            sequence = live.get(request_id)
            if sequence is not None and sequence.rank[-1] == order:  # else it ended, and the id may be another's now
                late.append(sequence)
        return late

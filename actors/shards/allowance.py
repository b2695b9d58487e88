"""How long a chain may take for a step: a multiple of what such steps took, not less than a floor. Pure."""

from __future__ import annotations

import statistics
from collections import deque

TIMES = 10.0
"""The median."""
LEAST = 2.0
"""Seconds: a machine that is busy with others is slow for so long, and no stage hangs."""
KEPT = 63
FEWEST = 7
"""Steps to go by."""


class Allowance:
    """Counts from the answer before, since steps are computed in their order."""

    def __init__(self, most: float) -> None:
        """`most`: seconds; what is allowed while nothing is known, and at most."""
        self.most = most
        self._took: deque[tuple[int, float]] = deque(maxlen=KEPT)

    def took(self, tokens: int, seconds: float) -> None:
        """A step was answered."""
        self._took.append((max(1, tokens), seconds))

    def of(self, tokens: int) -> float:
        """Seconds for a step of so many tokens: what is larger than those before counts as larger in proportion."""
        if len(self._took) < FEWEST:
            return self.most
        likely = statistics.median(seconds * max(1.0, tokens / before) for before, seconds in self._took)
        return min(self.most, max(LEAST, TIMES * likely))

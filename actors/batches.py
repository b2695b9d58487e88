"""Which sequences share a batch: sorted by length, cut by a budget in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def by_token_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of the sequences of each batch, longest first; a batch of n costs n × its longest ≤ `budget` tokens.

    A fixed count per batch wastes most of its work on padding; a budget over sorted lengths wastes next to none, and
    longest first means that a batch that does not fit in memory fails at once, not at the end. A sequence longer than
    the budget gets a batch of its own. `lengths` in tokens; every index comes exactly once.
    """
    if budget < 1:
        raise ValueError(f"the token budget of a batch must be at least 1, not {budget}")
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        width = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + width]
        start += width

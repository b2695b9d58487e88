"""A step in the making. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .plan import Copy, Span
from .sequence import Sequence
from .step import Row


class Share(NamedTuple):
    """What sequences that give way may have of a step, at most."""

    sequences: int
    tokens: int


NO_SHARE = Share(0, 0)
"""While somebody who is not in the background waits for a first token."""


@dataclass(slots=True)
class Batch:
    """What a sequencer has put into the step so far, and what more may come."""

    budget: int
    owed: int
    """Of the budget, kept for sequences that decode and come later in the pass."""
    most: int
    """Sequences."""
    background: Share
    """What is left of it."""
    spans: list[Span] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    logits: int = 0
    copies: list[Copy] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """More may come."""
        return self.budget > 0 and len(self.spans) < self.most

    def lets_in(self, sequence: Sequence) -> bool:
        """Whether one more sequence may come, and this one."""
        return self.open and (not sequence.background or min(self.background) >= 1)

    def left_for(self, sequence: Sequence) -> int:
        """Tokens that a sequence may have, which is not among those that something is kept for."""
        left = self.budget - self.owed
        return min(left, self.background.tokens) if sequence.background else left

    def add(self, sequence: Sequence, count: int, draft: tuple[int, ...]) -> Span:
        """Put the next `count` tokens of a sequence, and the guess behind them, into the step; its blocks are there."""
        start, known = sequence.scheduled, sequence.scheduled + count
        logits = 1 + len(draft) if known == len(sequence.tokens) else 0
        span = Span(start, (*sequence.tokens[start:known], *draft), sequence.table(), logits)
        if logits:
            self.rows.append(Row(sequence.id, len(self.spans), self.logits, known, draft))
        self.logits += logits
        self.spans.append(span)
        self.sequences.append(sequence)
        self.budget -= len(span.tokens)
        if sequence.background:
            self.background = Share(self.background.sequences - 1, self.background.tokens - len(span.tokens))
        return span

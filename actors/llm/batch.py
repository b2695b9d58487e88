"""A step in the making. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field

from .plan import Copy, Span
from .sequence import Sequence
from .step import Row


@dataclass(slots=True)
class Batch:
    """What a sequencer has put into the step so far, and what more may come."""

    budget: int
    owed: int
    """Of the budget, kept for sequences that decode and come later in the pass."""
    most: int
    """Sequences."""
    background: int
    """Sequences that give way, at most: none while another one's prompt is to be computed."""
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

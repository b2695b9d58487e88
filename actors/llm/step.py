"""What passes between a sequencer and its engine: a step to compute, and what it gave. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from .plan import Plan
from .request import FinishReason
from .sequence import Outcome, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """A span whose logits are wanted, in the order of the plan: the next token of a sequence is to be chosen."""

    id: str
    """The request's."""
    span: int
    """Index into the plan's spans."""
    first: int
    """Its first row in the step's logits; it has ``1 + len(draft)`` of them."""
    position: int
    """Position of the token that its first row chooses (the next row's is one more): what randomness is keyed by."""
    draft: tuple[int, ...] = ()
    """The guessed tokens that its other rows verify: row i + 1 holds only if row i chose ``draft[i]``."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the engine made of a `Row`."""

    tokens: tuple[int, ...]
    """One token that was chosen; or accepted draft tokens and the one chosen after them. None only with `finish`."""
    finish: FinishReason | None = None
    """The engine's decision that the sequence ends with these tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step to compute. Truthy if there is anything to compute; hand it back to `update` or `fail` then, once."""

    plan: Plan
    rows: tuple[Row, ...]
    """One for each span that has logits; `update` wants an `Accepted` for each."""
    finished: tuple[Outcome, ...] = ()
    """Requests that ended without being computed: their time was over, or nothing was left to generate."""
    preempted: tuple[str, ...] = ()
    """Requests that gave their blocks back and will be computed again."""
    sequences: tuple[Sequence, ...] = field(default=(), repr=False)
    """The sequencer's own: one for each span."""

    def __bool__(self) -> bool:
        return bool(self.plan.spans)

    def check(self, accepted: Items[Accepted]) -> None:
        """Raise ValueError if the answers don't fit its rows, or an earlier step with one of its sequences is in
        flight."""
        for span, sequence in zip(self.plan.spans, self.sequences, strict=True):
            if sequence.holds(span) and sequence.flights[0] is not span:
                raise ValueError(f"request {sequence.id!r}: a step before step {self.plan.step} is in flight with it")
        if len(accepted) != len(self.rows):
            raise ValueError(f"step {self.plan.step} has {len(self.rows)} rows, but {len(accepted)} answers came")
        for row, answer in zip(self.rows, accepted, strict=True):
            count = len(answer.tokens)
            if count > 1 + len(row.draft) or (count == 0 and answer.finish is None):
                raise ValueError(f"request {row.id!r}: {count} tokens for {1 + len(row.draft)} rows of logits")


@dataclass(frozen=True, slots=True)
class Demand:
    """What the next step could hold, if there were room for all of it."""

    decoding: int
    """Sequences that decode, those in steps under way included."""
    decoding_ready: int
    """Of these, those in none."""
    prompts: int
    """Sequences with known tokens to compute that no step under way computes yet."""
    tokens: int
    """Of all that are ready, a chunk of each at most."""

    @property
    def ready(self) -> int:
        """Sequences."""
        return self.decoding_ready + self.prompts


@dataclass(frozen=True, slots=True)
class Stats:
    """What a sequencer is doing, and what it did since it was made."""

    waiting: int
    """Sequences without blocks, preempted ones included."""
    running: int
    kv_usage: float
    """Share of the blocks that are held."""
    kv_waste: float
    """Share of the token slots in held blocks that hold nothing."""
    prefix_queried_tokens: int
    """Tokens of sequences at their first admission, and of those …"""
    prefix_hit_tokens: int
    """… found computed."""
    computed_tokens: int
    """Tokens put into steps, drafts not counted."""
    preemptions: int
    steps: int

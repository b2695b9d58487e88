"""One sequence between acceptance and its end: its tokens, its blocks, and the phase it is in."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter

from .plan import Span
from .prefix import BlockHash
from .request import FinishReason, Request


class Phase(StrEnum):
    """Where a sequence stands: explicit, never inferred from counts (a known token may have to be computed again)."""

    WAITING = "waiting"
    """Accepted; holds no blocks."""
    PREFILL = "prefill"
    """Holds blocks; tokens that are known are being computed."""
    DECODE = "decode"
    """Everything but the last token is computed; each step gives at least one more."""
    PREEMPTED = "preempted"
    """Gave its blocks back for others; waits to be computed again from its tokens, of which none is lost."""
    FINISHED = "finished"
    """Its one outcome is told. While a step is in flight with it, it still holds its blocks."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: exactly one for each that was accepted."""

    id: str
    reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, found in the prefix cache."""
    completion_tokens: int
    """Generated, `known` ones included."""
    preemptions: int = 0


Rank = tuple[bool, float, int]
"""Who comes first: the smaller. Background last; then seconds of arrival less what the priority is worth; then the
order of acceptance."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and how far it got. Only the sequencer changes it."""

    request: Request
    rank: Rank
    extra: bytes
    """What must be equal besides the tokens for its blocks to be shared, see `prefix.extra_keys`."""
    limit: int
    """It ends when it has so many tokens, the prompt's included."""
    arrival: float
    """Seconds on the caller's clock."""
    deadline: float
    """Seconds on the caller's clock; infinite without a timeout."""
    tokens: list[int] = field(init=False)
    """Prompt, then everything generated."""
    phase: Phase = Phase.WAITING
    computed: int = 0
    """Positions whose keys and values are in `blocks`; always less than the tokens, so that there is one to compute."""
    blocks: list[int] = field(default_factory=list)
    hashes: list[BlockHash] = field(default_factory=list)
    """Names of its first full blocks, made when first needed and kept through preemption."""
    registered: int = 0
    """How many of its blocks the cache was told of."""
    draft: tuple[int, ...] = ()
    """Tokens that somebody guesses will follow; for the next step only."""
    flights: list[Span] = field(default_factory=list)
    """What steps in flight compute of it, in their order. Only chunks of known tokens can follow each other unseen."""
    void: int = 0
    """Steps in flight whose work on it is of no use any more: they follow one that was lost."""
    cached_tokens: int = 0
    """Of the prompt, found computed when it was first admitted."""
    preemptions: int = 0
    _table: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt, *self.request.known]

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.id

    @property
    def background(self) -> bool:
        """It gives way to everybody who is not."""
        return self.request.background

    @property
    def scheduled(self) -> int:
        """Positions before this one are computed, or will be by steps in flight."""
        return self.flights[-1].stop if self.flights else self.computed

    @property
    def ready(self) -> bool:
        """The next step may hold it: no step in flight is yet to tell its next token."""
        return not self.flights or not self.flights[-1].logits

    def holds(self, span: Span) -> bool:
        """What a step in flight computes of it counts: no step before that one was lost."""
        return any(span is each for each in self.flights)

    def outcome(self, reason: FinishReason) -> Outcome:
        """How it ended, with what it has by now."""
        prompt = len(self.request.prompt)
        return Outcome(self.id, reason, prompt, self.cached_tokens, len(self.tokens) - prompt, self.preemptions)

    def table(self) -> tuple[int, ...]:
        """The block table; the same tuple until a block changes, as most steps change none."""
        if self._table is None:
            self._table = tuple(self.blocks)
        return self._table

    def set_block(self, index: int, block: int) -> None:
        """Put a block in the table, in an old place or right behind the last one."""
        self.blocks[index : index + 1] = (block,)
        self._table = None

    def drop_blocks(self) -> list[int]:
        """Empty the table; nothing is computed any more. Returns what it held, for the pool."""
        held, self.blocks = self.blocks, []
        self.computed = self.registered = 0
        self._table = None
        return held


_rank = attrgetter("rank")


class Line:
    """Sequences in the order of their ranks, the best first. Ranks are unique and never change."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Put it in its place: O(log n) comparisons."""
        insort(self._sequences, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """Take it out; it must be in the line."""
        index = bisect_left(self._sequences, sequence.rank, key=_rank)
        if self._sequences[index] is not sequence:
            raise LookupError(f"sequence {sequence.id!r} is not in this line")
        del self._sequences[index]

    def __getitem__(self, index: int) -> Sequence:
        return self._sequences[index]

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

"""What must be true of a sequencer between any two calls. Numbers as in the specification of continuous batching."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .blocks import BlockPool
from .sequence import Line, Phase, Sequence
from .step import Step


class InvariantBroken(AssertionError):
    """A sequencer's books don't agree. It is a defect of the sequencer, and nothing that it plans can be trusted."""


def check(pool: BlockPool, block_size: int, running: Line, waiting: Line, in_flight: Mapping[int, Step]) -> None:
    """Raise `InvariantBroken` with the values that don't agree. O(blocks + sequences)."""
    flying = list(dict.fromkeys(sequence for step in in_flight.values() for sequence in step.sequences))
    ended = [sequence for sequence in flying if sequence.phase is Phase.FINISHED and sequence.flights]
    _check_pool(pool, [*running, *ended])
    _check_lines(running, waiting)
    for sequence in running:
        _check_sequence(sequence, block_size)
    _check_flights(flying, in_flight, running)
    for sequence in flying:
        _check_writes(sequence, pool, block_size)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantBroken(message)


def _check_pool(pool: BlockPool, holders: Iterable[Sequence]) -> None:
    held = Counter(block for sequence in holders for block in sequence.blocks)
    for block, refs in enumerate(pool.refs):
        _require(refs == held[block], f"I1: block {block} has {refs} references, but {held[block]} sequences hold it")
    free = list(pool.free_blocks())
    _require(len(free) == len(set(free)) == pool.free, f"I2: {pool.free} blocks are said to be free, listed: {free}")
    _require(
        pool.free + len(+held) == pool.num_blocks, f"I2: {pool.free} free + {len(+held)} held of {pool.num_blocks}"
    )
    wrong = [block for block in free if pool.refs[block]]
    _require(not wrong, f"I3: blocks {wrong} are in the free list and held")
    for name, block in pool.cached().items():
        _require(pool.name_of(block) == name, f"I5: block {block} is found as {name.hex()} but has another name")
    names = sum(pool.name_of(block) is not None for block in range(pool.num_blocks))
    _require(names == len(pool.cached()), f"I5: {names} blocks have names, {len(pool.cached())} are found by one")


def _check_lines(running: Line, waiting: Line) -> None:
    for line, phases in ((running, {Phase.PREFILL, Phase.DECODE}), (waiting, {Phase.WAITING, Phase.PREEMPTED})):
        ranks = [sequence.rank for sequence in line]
        _require(ranks == sorted(set(ranks)), f"a line is out of order: {ranks}")
        for sequence in line:
            _require(sequence.phase in phases, f"{sequence.id!r} is {sequence.phase} in the wrong line")
    for sequence in waiting:
        bare = not sequence.blocks and sequence.computed == sequence.registered == 0 and not sequence.flights
        _require(bare, f"{sequence.id!r} waits, but holds {sequence.blocks}")


def _check_sequence(sequence: Sequence, block_size: int) -> None:
    who, tokens, computed = repr(sequence.id), len(sequence.tokens), sequence.computed
    slots = len(sequence.blocks) * block_size
    _require(slots >= computed, f"I4: {who} has {computed} computed tokens in {slots} slots")
    _require(computed < tokens, f"I6: {who} runs with {computed} of {tokens} tokens computed: none is left to compute")
    _require(tokens < sequence.limit, f"{who} runs with {tokens} tokens of at most {sequence.limit}")
    _require(sequence.table() == tuple(sequence.blocks), f"{who} shows an old block table")
    _require(sequence.registered <= computed // block_size, f"{who} told the cache of a block that isn't full")
    if sequence.phase is Phase.DECODE:
        _require(computed == tokens - 1, f"{who} decodes with {computed} of {tokens} tokens computed")


def _check_flights(flying: list[Sequence], in_flight: Mapping[int, Step], running: Line) -> None:
    spans: dict[Sequence, list[int]] = {sequence: [] for sequence in (*flying, *running)}
    for number in sorted(in_flight):
        step = in_flight[number]
        for sequence, span in zip(step.sequences, step.plan.spans, strict=True):
            spans[sequence].append(id(span))
    for sequence, planned in spans.items():
        flights = sequence.flights
        ended = sequence.phase is Phase.FINISHED and flights  # what lands of it is not counted any more
        at = flights[0].start if ended else sequence.computed
        ours = [id(span) for span in flights]
        _require(len(planned) == len(set(planned)), f"I7: {sequence.id!r} is in more than one step with the same span")
        _require(ours == planned[sequence.void :], f"I7: {sequence.id!r} doesn't know the steps it is in")
        for index, span in enumerate(flights):
            _require(span.start == at, f"I7: {sequence.id!r} computes from {span.start} on, before it comes {at}")
            _require(
                not span.logits or index + 1 == len(flights), f"I7: {sequence.id!r} goes on behind a token to come"
            )
            at = span.stop


def _check_writes(sequence: Sequence, pool: BlockPool, block_size: int) -> None:
    for span in sequence.flights:
        for index in range(span.start // block_size, -(-span.stop // block_size)):
            block = sequence.blocks[index]
            _require(pool.refs[block] == 1, f"I5: {sequence.id!r} writes block {block}, which others hold")
            _require(pool.name_of(block) is None, f"I5: {sequence.id!r} writes block {block}, which the cache offers")

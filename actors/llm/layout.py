"""A plan as flat indices, and what makes a plan wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .plan import Plan, Span


class PlanRefused(ValueError):
    """The plan can't be computed as it stands; nothing has changed. The message says which span or copy, and why."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the tokens of a step are: packed span after span into one axis of T tokens."""

    offsets: tuple[int, ...]
    """Where each span begins on the packed axis, and T."""
    tokens: torch.Tensor  # (T) int64
    positions: torch.Tensor  # (T) int64
    slots: torch.Tensor  # (T) int64: block · block_size + offset in the block
    logit_rows: torch.Tensor | None
    """(plan.logits) int64: which of the T have logits; None if all have."""
    written: tuple[int, ...]
    """Blocks that the step writes."""


def lay_out(plan: Plan, block_size: int, device: torch.device) -> Layout:
    """Flatten a plan that `check` has passed."""
    offsets, tokens = [0], list[int]()
    positions, slots, rows, written = list[int](), list[int](), list[int](), list[int]()
    for span in plan.spans:
        end = offsets[-1] + len(span.tokens)
        tokens += span.tokens
        positions += range(span.start, span.stop)
        slots += [span.blocks[p // block_size] * block_size + p % block_size for p in range(span.start, span.stop)]
        rows += range(end - span.logits, end)
        written += written_blocks(span, block_size)
        offsets.append(end)
    flat = torch.tensor([tokens, positions, slots], dtype=torch.int64).to(device)
    some = None if len(rows) == offsets[-1] else torch.tensor(rows, dtype=torch.int64, device=device)
    return Layout(tuple(offsets), flat[0], flat[1], flat[2], some, tuple(written))


def written_blocks(span: Span, block_size: int) -> tuple[int, ...]:
    """The blocks that hold the span's positions."""
    return span.blocks[span.start // block_size : (span.stop - 1) // block_size + 1]


def check(plan: Plan, *, after: int, num_blocks: int, block_size: int, vocab: int | None) -> None:
    """Refuse a plan that would read or write where it must not.

    `after`: the last step that was computed. `vocab`: on the first stage, the number of token ids. Raises PlanRefused.
    """
    if plan.step <= after:
        raise PlanRefused(
            f"step {plan.step} after step {after}: steps count up; a restarted sequencer needs new stages"
        )
    if not plan.spans:
        raise PlanRefused(f"step {plan.step} has no spans")
    for copy in plan.copies:
        for block in (copy.source, copy.target):
            if not 0 <= block < num_blocks:
                raise PlanRefused(f"{copy} names block {block}, the stage has {num_blocks}")
    writer: dict[int, int] = {}
    for index, span in enumerate(plan.spans):
        _check_span(index, span, num_blocks, block_size, vocab)
        for block in written_blocks(span, block_size):
            if writer.setdefault(block, index) != index:
                raise PlanRefused(f"spans {writer[block]} and {index} both write block {block}")


def _check_span(index: int, span: Span, num_blocks: int, block_size: int, vocab: int | None) -> None:
    def refused(why: str) -> PlanRefused:
        return PlanRefused(f"span {index} (positions {span.start} to {span.stop - 1}): {why}")

    if not span.tokens:
        raise refused("it has no tokens")
    if span.start < 0:
        raise refused("it starts before position 0")
    if span.stop > len(span.blocks) * block_size:
        raise refused(f"its {len(span.blocks)} blocks of {block_size} end before position {span.stop - 1}")
    if not 0 <= span.logits <= len(span.tokens):
        raise refused(f"{span.logits} rows of logits of {len(span.tokens)} tokens")
    if min(span.blocks) < 0 or max(span.blocks) >= num_blocks:
        raise refused(f"its blocks are {min(span.blocks)} to {max(span.blocks)}, the stage has 0 to {num_blocks - 1}")
    if vocab is not None and (min(span.tokens) < 0 or max(span.tokens) >= vocab):
        raise refused(f"its token ids are {min(span.tokens)} to {max(span.tokens)}, the model has 0 to {vocab - 1}")

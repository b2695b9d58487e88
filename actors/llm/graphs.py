"""Decode steps of fixed sizes that a GPU replays from a recording: without, launching kernels takes longer than they.

A step of B single tokens is padded to one of a few sizes, and its block tables to one of a few widths. Everything that
changes from step to step lies in buffers that the recording reads, filled by one copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .block import Attend
from .kv import Pages
from .paged import PagedAttention
from .plan import Plan

Compute = Callable[[torch.Tensor, torch.Tensor, Attend], torch.Tensor]
"""(tokens (B) or hidden states (B, H); positions (B); attention) → logits (B, V) or hidden states (B, H)."""

LARGEST_BATCH = 256


@dataclass(slots=True, eq=False)
class _Recording:
    numbers: torch.Tensor  # (B, 3 + n) int64: token, position, slot, block table
    hidden: torch.Tensor | None  # (B, H), on all stages but the first
    graph: torch.cuda.CUDAGraph | None
    result: torch.Tensor | None


class DecodeGraphs:
    """Recordings by size, each made when it is first needed. Without CUDA the same padded step is computed directly."""

    def __init__(self, compute: Compute, attention: PagedAttention, pages: Pages) -> None:
        self.compute, self.attention, self.pages = compute, attention, pages
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._memory = torch.cuda.graph_pool_handle() if pages.data.is_cuda else None

    def takes(self, plan: Plan, last: bool) -> bool:
        """Whether the plan is nothing but decode: one token each, and on the last stage logits of each."""
        return len(plan.spans) <= LARGEST_BATCH and all(
            len(span.tokens) == 1 and (span.logits == 1 or not last) for span in plan.spans
        )

    def run(self, plan: Plan, x: torch.Tensor | None) -> torch.Tensor:
        """The plan's step; `x` (T, H) or None as in Stage.forward. The result is the caller's own."""
        count, size = len(plan.spans), self.pages.block_size
        width = _power(max(span.start // size + 1 for span in plan.spans))
        recording = self._recording(_power(count), width, x)
        recording.numbers.copy_(self._numbers(plan, *recording.numbers.shape))
        if recording.hidden is not None and x is not None:
            recording.hidden[:count] = x
        if recording.graph is not None and recording.result is not None:
            recording.graph.replay()
            return recording.result[:count].clone()
        return self._step(recording)[:count]

    def _numbers(self, plan: Plan, batch: int, columns: int) -> torch.Tensor:
        size, spare, width = self.pages.block_size, self.pages.num_blocks, columns - 3
        rows = []
        for span in plan.spans:
            blocks = span.blocks[: span.start // size + 1]
            slot = blocks[-1] * size + span.start % size
            rows.append([span.tokens[0], span.start, slot, *blocks, *[spare] * (width - len(blocks))])
        rows += [[0, 0, spare * size] + [spare] * width] * (batch - len(rows))
        return torch.tensor(rows, dtype=torch.int64)

    def _step(self, recording: _Recording) -> torch.Tensor:
        tokens, positions, slots = recording.numbers[:, :3].unbind(1)
        attend = self.attention.decode(slots, positions, recording.numbers[:, 3:])
        return self.compute(tokens if recording.hidden is None else recording.hidden, positions, attend)

    def _recording(self, batch: int, width: int, x: torch.Tensor | None) -> _Recording:
        key = (batch, width)
        if key not in self._recordings:
            device, spare = self.pages.data.device, self.pages.num_blocks
            numbers = torch.full((batch, 3 + width), spare, dtype=torch.int64, device=device)
            numbers[:, :3] = torch.tensor([0, 0, spare * self.pages.block_size])
            hidden = None if x is None else x.new_zeros((batch, x.shape[1]), device=device)
            self._recordings[key] = recording = _Recording(numbers, hidden, None, None)
            if self._memory is not None:
                self._record(recording)
        return self._recordings[key]

    def _record(self, recording: _Recording) -> None:
        """As the CUDA graph documentation wants it: warmed up on a side stream, then captured into the shared pool."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(recording)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            recording.result = self._step(recording)
        recording.graph = graph


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << (number - 1).bit_length()

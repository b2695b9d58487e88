"""Attention that reads pages where they lie: what CUDA uses. Runs on any device, so that it can be tested on every one.

With torch's flash attention for paged keys one call does a whole step, prompts and decode mixed. Where that is missing
(fp32, fp64, old GPUs, CPUs) decoding sequences are gathered into one padded batch for SDPA, and every other span alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from .attention import Chunk, hidden_keys
from .block import Attend
from .families import Architecture
from .kv import Pages
from .layout import Layout
from .plan import Plan, Span


class PagedAttention:
    """See Attention. Keeps nothing between steps, so nothing can become stale."""

    def __init__(self, pages: Pages, shape: Architecture) -> None:
        self.pages, self.shape = pages, shape
        self.flash = flash_works(pages, shape)

    def wrote(self, blocks: tuple[int, ...]) -> None:
        """See Attention."""

    def begin(self, plan: Plan, layout: Layout) -> Attend:
        """See Attention."""
        device = self.pages.data.device
        if self.flash:
            lengths = torch.tensor(layout.offsets, dtype=torch.int32, device=device)
            stops = torch.tensor([span.stop for span in plan.spans], dtype=torch.int32, device=device)
            longest = max(len(span.tokens) for span in plan.spans)
            return _FlashStep(self, layout.slots, _table(plan.spans, self.pages, torch.int32), lengths, stops, longest)
        single = [index for index, span in enumerate(plan.spans) if len(span.tokens) == 1]
        offsets = [layout.offsets[index] for index in single]
        rows = torch.tensor(offsets, dtype=torch.int64, device=device)
        batch = None
        if single:
            table = _table([plan.spans[index] for index in single], self.pages, torch.int64)
            batch = GatheredBatch(table, layout.positions[rows])
        chunks = [
            Chunk.of(span, offset, self.pages.block_size, device)
            for span, offset in zip(plan.spans, layout.offsets, strict=False)
            if len(span.tokens) > 1
        ]
        return _GatheredStep(self, layout.slots, rows, batch, chunks)

    def decode(self, slots: torch.Tensor, positions: torch.Tensor, table: torch.Tensor) -> Attend:
        """A step of one token each, told in tensors only (what a CUDA graph can replay).

        `slots`, `positions` (B) int64; `table` (B, n) int64, padded with any block.
        """
        if self.flash:
            edges = torch.arange(len(slots) + 1, dtype=torch.int32, device=slots.device)
            return _FlashStep(self, slots, table.int(), edges, (positions + 1).int(), 1)
        rows = torch.arange(len(slots), device=slots.device)
        return _GatheredStep(self, slots, rows, GatheredBatch(table, positions), [])


class _FlashStep:
    def __init__(
        self,
        attention: PagedAttention,
        slots: torch.Tensor,
        table: torch.Tensor,
        edges: torch.Tensor,
        stops: torch.Tensor,
        longest: int,
    ) -> None:
        self.pages, self.shape = attention.pages, attention.shape
        self.slots, self.table, self.edges, self.stops, self.longest = slots, table, edges, stops, longest

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        heads = self.shape.heads
        self.pages.write(layer, self.slots, qkv[:, heads:])
        window = self.shape.windows[self.pages.layers[layer]]
        return flash(
            qkv[:, :heads], self.pages.data[layer], self.table, self.edges, self.stops, self.longest, window
        ).flatten(1)


def flash(
    query: torch.Tensor,
    pages: torch.Tensor,
    table: torch.Tensor,
    edges: torch.Tensor,
    stops: torch.Tensor,
    longest: int,
    window: int | None,
) -> torch.Tensor:
    """(T, heads, D) of S spans → the same shape. fp16 or bf16, CUDA only.

    `pages` (blocks, block_size, 2, kv_heads, D); `table` (S, n), `edges` (S + 1) on the packed axis, and
    `stops` (S), the contexts' lengths: int32. `longest`: of the spans.
    """
    from torch.nn.attention.varlen import varlen_attn

    key, value = pages.unbind(2)
    result = varlen_attn(
        query.contiguous(),
        key,
        value,
        edges,
        None,
        longest,
        table.shape[1] * pages.shape[1],
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[2],
        seqused_k=stops,
        block_table=table,
    )
    assert isinstance(result, torch.Tensor)
    return result


def flash_works(pages: Pages, shape: Architecture) -> bool:
    """Whether torch's flash attention takes these pages on this device and gives the right numbers: tried, not guessed.

    Kernels differ in the page sizes and head sizes that they take, and say so only when they are called.
    """
    if not pages.data.is_cuda or pages.data.dtype not in (torch.float16, torch.bfloat16):
        return False
    like = pages.data
    trial = torch.randn(3, *like.shape[2:], dtype=like.dtype, device=like.device)
    query = torch.randn(3, shape.heads, shape.head_dim, dtype=like.dtype, device=like.device)
    table = torch.tensor([[2, 0], [1, 1]], device=like.device)
    stops = torch.tensor([pages.block_size + 2, 3], device=like.device)
    edges = torch.tensor([0, 1, 2], dtype=torch.int32, device=like.device)
    try:
        result = flash(query[:2], trial, table.int(), edges, stops.int(), 1, None)
    except (ImportError, RuntimeError, TypeError, ValueError):
        return False
    expected = GatheredBatch(table, stops - 1).attend(query[:2], trial, shape, None)
    return bool(torch.allclose(result.flatten(1), expected, rtol=0.05, atol=0.05))


class _GatheredStep:
    def __init__(
        self,
        attention: PagedAttention,
        slots: torch.Tensor,
        rows: torch.Tensor,
        batch: GatheredBatch | None,
        chunks: list[Chunk],
    ) -> None:
        self.pages, self.shape = attention.pages, attention.shape
        self.slots, self.rows, self.batch, self.chunks = slots, rows, batch, chunks

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        heads = self.shape.heads
        self.pages.write(layer, self.slots, qkv[:, heads:])
        window = self.shape.windows[self.pages.layers[layer]]
        mixed = qkv.new_empty((len(qkv), heads * self.shape.head_dim))
        if self.batch is not None:
            mixed[self.rows] = self.batch.attend(qkv[self.rows, :heads], self.pages.data[layer], self.shape, window)
        for chunk in self.chunks:
            mixed[chunk.begin : chunk.end] = chunk.attend(layer, qkv, self.pages, self.shape, window)
        return mixed


@dataclass(slots=True, eq=False)
class GatheredBatch:
    """Sequences that decode, padded to one length."""

    table: torch.Tensor  # (B, n) int64
    positions: torch.Tensor  # (B) int64: of the queries
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    """Window → (B, 1, 1, n · block_size) bool: what is seen."""

    def attend(self, query: torch.Tensor, pages: torch.Tensor, shape: Architecture, window: int | None) -> torch.Tensor:
        """(B, heads, D) over pages (blocks, block_size, 2, kv_heads, D) → (B, heads · D)."""
        batch, kv_heads = len(query), shape.kv_heads
        context = self.table.shape[1] * pages.shape[1]
        gathered = pages.index_select(0, self.table.flatten()).view(batch, context, 2, kv_heads, shape.head_dim)
        key, value = gathered.transpose(1, 3).unbind(2)  # each (B, kv_heads, context, D)
        grouped = query.reshape(batch, kv_heads, shape.heads // kv_heads, shape.head_dim)
        if window not in self.masks:
            self.masks[window] = ~hidden_keys(self.positions, context, window)[:, None, None]
        return functional.scaled_dot_product_attention(grouped, key, value, attn_mask=self.masks[window]).flatten(1)


def _table(spans: Sequence[Span], pages: Pages, dtype: torch.dtype) -> torch.Tensor:
    """(S, n): the block tables as far as the spans go, padded with the spare page."""
    used = [span.blocks[: -(-span.stop // pages.block_size)] for span in spans]
    longest = max(map(len, used))
    padded = [[*blocks, *[pages.num_blocks] * (longest - len(blocks))] for blocks in used]
    return torch.tensor(padded, dtype=dtype, device=pages.data.device)

"""Attention over pages: one step's spans, prefill and decode mixed, behind one function a layer.

An `Attention` is told the plan once a step and returns the function that every layer calls: `CpuAttention` here,
`PagedAttention` for CUDA in `paged.py`. Grouped queries are folded, never expanded: into the query's length for
decode, into strides of 0 for prefill (SDPA with enable_gqa is 12 times slower in bf16 on CPUs).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch.nn import functional

from .block import Attend
from .families import Architecture
from .kv import Pages
from .layout import Layout
from .mirror import Mirror, Row, Slab
from .plan import Plan, Span


class Attention(Protocol):
    """How a stage attends."""

    def begin(self, plan: Plan, layout: Layout) -> Attend:
        """The function that this step's layers call, one after the other; valid until the next `begin`."""
        ...

    def wrote(self, blocks: tuple[int, ...]) -> None:
        """These pages were changed by something else than a step."""
        ...


class CpuAttention:
    """Decode in dense rows, everything else on gathered pages."""

    def __init__(self, pages: Pages, shape: Architecture, mirror: Mirror) -> None:
        self.pages, self.shape, self.mirror = pages, shape, mirror
        self._windows = [shape.windows[layer] for layer in pages.layers]

    def wrote(self, blocks: tuple[int, ...]) -> None:
        """The mirror's rows of these blocks are stale."""
        self.mirror.wrote(blocks)

    def begin(self, plan: Plan, layout: Layout) -> Attend:
        """See Attention."""
        rows: dict[Row, tuple[Span, int]] = {}
        chunks: list[Chunk] = []
        for span, offset in zip(plan.spans, layout.offsets, strict=False):
            row = self.mirror.find(span, layout.written, rows) if len(span.tokens) == 1 else None
            if row is not None:
                rows[row] = (span, offset)
            else:
                chunks.append(Chunk.of(span, offset, self.pages.block_size))
        self.mirror.wrote(layout.written, [(row, span) for row, (span, _) in rows.items()])
        by_slab: dict[Slab, list[tuple[Row, int]]] = defaultdict(list)
        for row, (_, offset) in rows.items():
            by_slab[row.slab].append((row, offset))
        groups = [DenseGroup.of(slab, members) for slab, members in by_slab.items()]
        return _CpuStep(self, layout, groups, chunks)

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, counted from the stage's first."""
        return self._windows[layer]


class _CpuStep:
    def __init__(self, attention: CpuAttention, layout: Layout, groups: list[DenseGroup], chunks: list[Chunk]) -> None:
        self.pages, self.shape, self.window = attention.pages, attention.shape, attention.window
        self.layout, self.groups, self.chunks = layout, groups, chunks

    def __call__(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        heads = self.shape.heads
        self.pages.write(layer, self.layout.slots, qkv[:, heads:])
        window = self.window(layer)
        if not self.chunks and len(self.groups) == 1 and self.groups[0].in_order:
            return self.groups[0].attend(layer, qkv, self.shape, window)
        mixed = qkv.new_empty((len(qkv), heads * self.shape.head_dim))
        for group in self.groups:
            mixed[group.tokens] = group.attend(layer, qkv, self.shape, window)
        for chunk in self.chunks:
            mixed[chunk.begin : chunk.end] = chunk.attend(layer, qkv, self.pages, self.shape, window)
        return mixed


@dataclass(slots=True, eq=False)
class DenseGroup:
    """The decoding sequences of a step whose rows lie in one slab: one batched product for all."""

    slab: Slab
    first: int
    """The slab's rows from here on take part; those of nobody compute what nobody reads."""
    tokens: torch.Tensor  # (n) int64: places on the packed axis, in the order of the rows
    rows: torch.Tensor  # (n) int64: their rows in the slab
    positions: torch.Tensor  # (R) int64: the query's position in each taken row, 0 for nobody's
    in_order: bool
    """The step's tokens are exactly these rows, in order."""
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    """Window → (R, 1, 1, width), added to scores."""

    @classmethod
    def of(cls, slab: Slab, members: list[tuple[Row, int]]) -> DenseGroup:
        """`members`: rows, already moved on to this step's length, and their places on the packed axis."""
        slab.fit(max(row.length for row, _ in members), [row for row, _ in members])
        used = sorted(row.index for row, _ in members)
        if used[-1] - used[0] + 1 > len(used) + max(2, len(used) // 2):
            slab.compact(used)
        members = sorted(members, key=lambda member: member[0].index)
        first, last = members[0][0].index, members[-1][0].index
        positions = [0] * (last - first + 1)
        for row, _ in members:
            positions[row.index - first] = row.length - 1
        tokens = [offset for _, offset in members]
        return cls(
            slab=slab,
            first=first,
            tokens=torch.tensor(tokens, dtype=torch.int64),
            rows=torch.tensor([row.index for row, _ in members], dtype=torch.int64),
            positions=torch.tensor(positions, dtype=torch.int64),
            in_order=len(tokens) == len(positions) and tokens == list(range(len(tokens))),
        )

    def attend(self, layer: int, qkv: torch.Tensor, shape: Architecture, window: int | None) -> torch.Tensor:
        """Store the new tokens' keys and values, then attend: (n, heads · D)."""
        heads, kv_heads = shape.heads, shape.kv_heads
        mine = qkv if self.in_order and len(qkv) == len(self.tokens) else qkv[self.tokens]
        keys, values = self.slab.keys[layer], self.slab.values[layer]
        places = self.positions[self.rows - self.first]
        keys[self.rows, :, :, places] = mine[:, heads : heads + kv_heads]
        values[self.rows, :, places] = mine[:, heads + kv_heads :]
        query = mine[:, :heads] * shape.head_dim**-0.5
        if len(self.rows) != len(self.positions):
            query = query.new_zeros((len(self.positions), *query.shape[1:])).index_copy_(
                0, self.rows - self.first, query
            )
        stop = self.first + len(self.positions)
        grouped = query.view(len(query), kv_heads, heads // kv_heads, shape.head_dim)
        scores = torch.matmul(grouped, keys[self.first : stop])
        scores += self._mask(window, scores.dtype)
        mixed = torch.matmul(scores.softmax(-1), values[self.first : stop]).flatten(1)
        return mixed if len(self.rows) == len(self.positions) else mixed[self.rows - self.first]

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        mask = self.masks.get(window)
        if mask is None:
            hidden = hidden_keys(self.positions, self.slab.width, window)
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)[:, None, None]
            self.masks[window] = mask
        return mask


@dataclass(slots=True, eq=False)
class Chunk:
    """A span that is not decoded in a dense row: a prompt's chunk, a draft to verify."""

    begin: int
    end: int
    """Its tokens on the packed axis."""
    start: int
    """Position of the first."""
    blocks: torch.Tensor  # (n) int64: those that hold the context
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    """Window → (n, context), added to scores."""

    @classmethod
    def of(cls, span: Span, offset: int, block_size: int, device: torch.device | None = None) -> Chunk:
        """`offset`: the span's first place on the packed axis."""
        blocks = span.blocks[: -(-span.stop // block_size)]
        index = torch.tensor(blocks, dtype=torch.int64, device=device)
        return cls(offset, offset + len(span.tokens), span.start, index)

    def attend(
        self, layer: int, qkv: torch.Tensor, pages: Pages, shape: Architecture, window: int | None
    ) -> torch.Tensor:
        """(n, heads · D). The span's own keys and values must be in the pages already."""
        heads, kv_heads = shape.heads, shape.kv_heads
        groups, length = heads // kv_heads, self.end - self.begin
        context = self.start + length
        own = qkv[self.begin : self.end]
        if self.start == 0:
            key, value = own[:, heads : heads + kv_heads], own[:, heads + kv_heads :]
        else:
            key, value = pages.read(layer, self.blocks)[:context].unbind(1)
        plain = window is None or context <= window
        if plain and qkv.dtype is torch.bfloat16 and qkv.device.type == "cpu":
            return tiled(own[:, :heads], key, value)
        wide = (kv_heads, groups, context, shape.head_dim)
        mixed = functional.scaled_dot_product_attention(
            own[:, :heads].view(length, kv_heads, groups, -1).permute(1, 2, 0, 3),  # (kv_heads, groups, n, D)
            key.transpose(0, 1)[:, None].expand(wide),
            value.transpose(0, 1)[:, None].expand(wide),
            attn_mask=None if plain and (length == 1 or self.start == 0) else self._mask(window, qkv),
            is_causal=plain and self.start == 0 and length > 1,
        )
        return mixed.permute(2, 0, 1, 3).reshape(length, heads * shape.head_dim)

    def _mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        mask = self.masks.get(window)
        if mask is None:
            context = self.start + self.end - self.begin
            hidden = hidden_keys(torch.arange(self.start, context, device=like.device), context, window)
            mask = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
            self.masks[window] = mask
        return mask


TILE = 128
"""Queries of a tile: fewer make the products small, more make them compute what is hidden."""


def tiled(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of the last positions as plain products: (n, heads · D).

    Query (n, heads, D), key and value (context, kv_heads, D); the queries are the last n of the context. Two to three
    times as fast as SDPA in bf16 on a CPU, which works in fp32 there; with the roundings of transformers' own (eager).
    """
    length, heads, size = query.shape
    context, kv_heads, _ = key.shape
    keys = key.transpose(0, 1).contiguous().transpose(1, 2)  # (kv_heads, D, context); copied once for all tiles
    values = value.transpose(0, 1).contiguous()
    grouped = (query * size**-0.5).view(length, kv_heads, -1, size).permute(1, 2, 0, 3)  # (kv_heads, groups, n, D)
    mixed = query.new_empty((length, kv_heads, heads // kv_heads, size))
    for begin in range(0, length, TILE):
        end = min(begin + TILE, length)
        seen = context - length + end
        tile = grouped[:, :, begin:end].reshape(kv_heads, -1, size)
        scores = torch.matmul(tile, keys[..., :seen]).view(kv_heads, -1, end - begin, seen)
        hidden = scores.new_full((end - begin, end - begin), -torch.inf).triu_(1)
        scores[..., seen - (end - begin) :] += hidden
        weighted = torch.matmul(scores.softmax(-1).view(kv_heads, -1, seen), values[:, :seen])
        mixed[begin:end] = weighted.view(kv_heads, -1, end - begin, size).permute(2, 0, 1, 3)
    return mixed.view(length, heads * size)


def hidden_keys(positions: torch.Tensor, context: int, window: int | None) -> torch.Tensor:
    """(N) → (N, context) bool: which of the positions before `context` a query at `positions` must not see."""
    keys = torch.arange(context, device=positions.device)
    hidden = keys > positions[:, None]
    return hidden if window is None else hidden | (keys <= positions[:, None] - window)

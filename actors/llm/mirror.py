"""Dense copies of the sequences that decode now, in the form that a CPU multiplies without gathering pages.

Gathering every sequence's pages costs as much as attention itself. So a sequence that decodes gets a row of a slab,
filled once from its pages and then kept up token by token, beside the pages, which stay the truth. The mirror is told
block tables only, as everything in a stage: a row belongs to whoever comes with the table and the position that it
ended with, and only as long as nobody else has written any of its blocks.

    slab 256:   row 0  [t t t t t t . . ]      keys   (layers, rows, kv_heads, D, width)
                row 1  [t t t . . . . . ]      values (layers, rows, kv_heads, width, D)
    slab 512:   row 0  [t t t t t t t t t t . . . . . . ]

Slabs are exactly as wide as the longest row needs, rounded up, and reallocated now and then: oneDNN copies what is not
dense before it multiplies, in every step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .kv import Pages
from .plan import Span

_SMALLEST = 256
"""Longest rows of the first slab; each next slab's are twice as long, so that padding is bounded by one half."""
_FEWEST_ROWS = 8
_FEWEST_WIDTHS = 8
"""A slab's width is a multiple of its capacity divided by this."""
_LOOSE_STEPS = 64
"""After so many steps in which a slab was wider than needed it is made narrower."""
_IDLE_STEPS = 64
"""A row that nobody has asked for during so many steps is given to the next who needs one."""

_NOWHERE = -1
"""Index of a row that was dropped; the last row of a slab is another one's."""


@dataclass(slots=True, eq=False)
class Row:
    """One sequence's dense keys and values."""

    slab: Slab
    index: int
    """Row of the slab; changes when rows are moved."""
    table: tuple[int, ...]
    length: int
    """Positions held."""
    serial: int
    """When it was last known to equal its pages."""


class Slab:
    """Rows of at most `capacity` positions."""

    def __init__(self, pages: Pages, capacity: int) -> None:
        self.capacity = capacity
        self.owners: list[Row | None] = []
        self._loose = 0
        layers, _, _, _, kv_heads, head_dim = pages.data.shape
        self.keys = pages.data.new_zeros((layers, 0, kv_heads, head_dim, 0))
        self.values = pages.data.new_zeros((layers, 0, kv_heads, 0, head_dim))

    @property
    def width(self) -> int:
        """Positions that each row has room for now."""
        return self.keys.shape[-1]

    def fit(self, longest: int, taken: Collection[Row] = ()) -> None:
        """Make rows as wide as `longest` positions need. Getting narrower is put off, and drops those who need more.

        All is copied then: rows that are idle, but for those `taken`, are not worth it. May move rows.
        """
        step = self.capacity // _FEWEST_WIDTHS
        need = -(-longest // step) * step
        self._loose = self._loose + 1 if need < self.width else 0
        if need > self.width or self._loose > _LOOSE_STEPS:
            self._loose = 0
            held = [row for row in self.owners if row is not None and row.length <= need]
            idle = max((row.serial for row in held), default=0) - _IDLE_STEPS
            kept = [row for row in held if row.serial >= idle or row in taken]
            rows = -(-len(kept) // _FEWEST_ROWS) * _FEWEST_ROWS
            self._allocate(kept, min(rows, len(self.owners)), need)

    def grow(self, rows: int) -> None:
        """Add so many rows."""
        held = [row for row in self.owners if row is not None]
        self._allocate(held, len(self.owners) + rows, self.width)

    def _allocate(self, kept: Sequence[Row], rows: int, width: int) -> None:
        """So many rows of this width, of which the first are those `kept`; all others are dropped."""
        count, held = len(kept), min(width, self.width)
        layers, _, kv_heads, head_dim, _ = self.keys.shape
        keys = self.keys.new_zeros((layers, rows, kv_heads, head_dim, width))
        values = self.values.new_zeros((layers, rows, kv_heads, width, head_dim))
        index = torch.tensor([row.index for row in kept], dtype=torch.int64)
        for layer in range(layers):
            keys[layer, :count, ..., :held] = self.keys[layer, ..., :held].index_select(0, index)
            values[layer, :count, :, :held] = self.values[layer, :, :, :held].index_select(0, index)
        self.keys, self.values = keys, values
        for row in self.owners:
            if row is not None:
                row.index = _NOWHERE
        self.owners = [*kept, *[None] * (rows - count)]
        for place, row in enumerate(kept):
            row.index = place

    def fill(self, index: int, content: torch.Tensor) -> None:
        """`content` (layers, n, 2, kv_heads, D) becomes the row's first n positions.

        The others become zeros: a number that is not finite would get through the mask.
        """
        length = content.shape[1]
        self.keys[:, index, :, :, :length] = content[:, :, 0].permute(0, 2, 3, 1)
        self.values[:, index, :, :length] = content[:, :, 1].transpose(1, 2)
        self.keys[:, index, :, :, length:] = 0
        self.values[:, index, :, length:] = 0

    def compact(self, used: Sequence[int]) -> None:
        """Move the rows `used`, in ascending order, to the front: they change places with those that are there."""
        order = list(range(len(self.owners)))
        for new, old in enumerate(used):
            order[new], order[old] = order[old], order[new]
        moved = [new for new, old in enumerate(order) if new != old]
        to, index = (torch.tensor(places, dtype=torch.int64) for places in (moved, [order[new] for new in moved]))
        for layer in range(len(self.keys)):
            self.keys[layer, to] = self.keys[layer].index_select(0, index)
            self.values[layer, to] = self.values[layer].index_select(0, index)
        self.owners = [self.owners[old] for old in order]
        for new, row in enumerate(self.owners):
            if row is not None:
                row.index = new


class Mirror:
    """Rows for sequences that decode. Holds at most `budget` positions; who finds no place is gathered from pages."""

    def __init__(self, pages: Pages, budget: int) -> None:
        self.pages = pages
        self.budget = budget
        self._slabs: dict[int, Slab] = {}
        self._by_tail: dict[int, Row] = {}
        self._serial = 0
        self._versions = np.zeros(pages.num_blocks, dtype=np.int64)
        """Block → serial of the last write."""

    @property
    def positions(self) -> int:
        """Capacity of all rows: what memory is reserved for, whether it was touched or not."""
        return sum(slab.capacity * len(slab.owners) for slab in self._slabs.values())

    def wrote(self, blocks: Collection[int], rows: Sequence[tuple[Row, Span]] = ()) -> None:
        """These blocks were written; `rows` took part with the tokens of their spans, every other copy is stale."""
        self._serial += 1
        self._versions[list(blocks)] = self._serial
        for row, span in rows:
            row.table, row.length, row.serial = span.blocks, span.stop, self._serial
            self._by_tail[self._tail(span.blocks, span.stop)] = row

    def find(self, span: Span, written: Collection[int], taken: Collection[Row]) -> Row | None:
        """The row of this decoding sequence, filled from its pages if need be; None if there is no place for it.

        `written`: what the step writes. `taken`: rows that other spans of the step got. Its row leaves the index until
        `wrote` is told.
        """
        row = self._by_tail.pop(self._tail(span.blocks, span.start), None) if span.start else None
        if row is not None:
            if row not in taken and self._valid(row, span) and span.stop <= row.slab.capacity:
                return row
            self._release(row)
        context = span.blocks[: span.start // self.pages.block_size]
        if not set(written).isdisjoint(context):
            return None  # a prefix that another span computes in this very step: it isn't in the pages yet
        return self._admit(span, taken)

    def _tail(self, blocks: tuple[int, ...], length: int) -> int:
        return blocks[(length - 1) // self.pages.block_size]

    def _valid(self, row: Row, span: Span) -> bool:
        held = (span.start - 1) // self.pages.block_size + 1
        if row.slab.owners[row.index] is not row:
            return False  # dropped
        if row.length < span.start or row.table[:held] != span.blocks[:held]:
            return False
        return row.serial == self._serial or int(self._versions[list(row.table[:held])].max()) <= row.serial

    def _release(self, row: Row) -> None:
        if row.slab.owners[row.index] is row:
            row.slab.owners[row.index] = None

    def _admit(self, span: Span, taken: Collection[Row]) -> Row | None:
        capacity = _SMALLEST
        while capacity < span.stop:
            capacity *= 2
        slab = self._slabs.setdefault(capacity, Slab(self.pages, capacity))
        index = self._place(slab, taken)
        if index is None:
            return None
        if (previous := slab.owners[index]) is not None:
            self._forget(previous)
        row = Row(slab, index, span.blocks, span.start, self._serial)
        slab.owners[index] = row
        if span.stop > slab.width:
            slab.fit(span.stop, taken)
        held = span.blocks[: -(-span.start // self.pages.block_size)]
        pages = self.pages.data.index_select(1, torch.tensor(held, dtype=torch.int64)).flatten(1, 2)
        slab.fill(row.index, pages[:, : span.start])
        return row

    def _place(self, slab: Slab, taken: Collection[Row]) -> int | None:
        """A free row, an idle one, a new one, or the one that was idle longest."""
        oldest: Row | None = None
        for index, row in enumerate(slab.owners):
            if row is None:
                return index
            if row not in taken and (oldest is None or row.serial < oldest.serial):
                oldest = row
        if oldest is not None and oldest.serial < self._serial - _IDLE_STEPS:
            return oldest.index
        have = len(slab.owners)
        more = min(max(have, _FEWEST_ROWS), (self.budget - self.positions) // slab.capacity)
        if more > 0:
            slab.grow(more)
            return have
        return oldest.index if oldest is not None else None

    def _forget(self, row: Row) -> None:
        tail = self._tail(row.table, row.length) if row.length else -1
        if self._by_tail.get(tail) is row:
            del self._by_tail[tail]

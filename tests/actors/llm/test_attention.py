"""Attention over pages against the definition, computed one head and one query at a time."""

import random

import pytest
import torch

from idlegrid.actors.llm.attention import TILE, CpuAttention, tiled
from idlegrid.actors.llm.kv import Pages
from idlegrid.actors.llm.layout import lay_out
from idlegrid.actors.llm.mirror import Mirror
from idlegrid.actors.llm.paged import PagedAttention
from idlegrid.actors.llm.plan import Plan, Span

BLOCK, BLOCKS = 8, 300


class Sequences:
    """Random sequences, their packed queries, keys and values step by step, and what attention must give."""

    def __init__(self, shape, draw):
        self.shape, self.draw = shape, draw
        self.history = {}  # name → (table, [layer → (n, heads + 2 · kv_heads, D)])

    def begin(self, name, table):
        width = self.shape.heads + 2 * self.shape.kv_heads
        self.history[name] = (table, [torch.zeros(0, width, self.shape.head_dim, dtype=torch.float64) for _ in "ab"])

    def span(self, name, length):
        table, (known, _) = self.history[name]
        return Span(len(known), (0,) * length, table[: -(-(len(known) + length) // BLOCK)])

    def qkv(self, names, lengths):
        """Fresh random values of both layers, packed."""
        packed = []
        for layer in range(2):
            parts = [
                torch.randn(n, *self.history[name][1][layer].shape[1:], dtype=torch.float64)
                for name, n in zip(names, lengths, strict=True)
            ]
            for name, part in zip(names, parts, strict=True):
                known = self.history[name][1]
                known[layer] = torch.cat([known[layer], part])
            packed.append(torch.cat(parts))
        return packed

    def expected(self, names, lengths, layer):
        rows = [
            self._one(self.history[name][1][layer], n, self.shape.windows[layer])
            for name, n in zip(names, lengths, strict=True)
        ]
        return torch.cat(rows)

    def _one(self, known, new, window):
        heads, kv_heads = self.shape.heads, self.shape.kv_heads
        out = []
        for position in range(len(known) - new, len(known)):
            first = 0 if window is None else max(0, position - window + 1)
            for head in range(heads):
                kv = heads + head // (heads // kv_heads)
                scores = known[first : position + 1, kv] @ known[position, head] / self.shape.head_dim**0.5
                out.append(scores.softmax(0) @ known[first : position + 1, kv + kv_heads])
        return torch.stack(out).view(new, -1)


def dense(budget):
    """CpuAttention whose rows hold at most `budget` positions."""
    return lambda pages, shape: CpuAttention(pages, shape, Mirror(pages, budget))


@pytest.mark.parametrize("window", [None, 13])
@pytest.mark.parametrize("make", [dense(0), dense(512), dense(100_000), PagedAttention])
@pytest.mark.parametrize("seed", range(3))
def test_mixed_steps_equal_the_definition(seed, make, window, tiny_shape):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    shape = tiny_shape(windows=(None, window))
    pages = Pages(shape, range(2), BLOCKS, BLOCK, torch.float64, torch.device("cpu"))
    attention = make(pages, shape)
    sequences, blocks = Sequences(shape, draw), draw.sample(range(BLOCKS), BLOCKS)
    names = list(range(7))
    for name in names:
        sequences.begin(name, tuple(blocks[name * 40 : name * 40 + 40]))
    for step in range(14):
        batch = draw.sample(names, draw.randint(1, len(names)))
        # at first long chunks, so that some contexts pass the smallest slab, then mostly single tokens
        lengths = [draw.randint(1, 120) if step < 4 else draw.choice((1, 1, 1, 1, 5)) for _ in batch]
        plan = Plan(step, tuple(map(sequences.span, batch, lengths)))
        attend = attention.begin(plan, lay_out(plan, BLOCK, torch.device("cpu")))
        for layer, qkv in enumerate(sequences.qkv(batch, lengths)):
            torch.testing.assert_close(attend(layer, qkv), sequences.expected(batch, lengths, layer))


@pytest.mark.parametrize("before", [0, 5, 200])
@pytest.mark.parametrize("length", [1, TILE - 1, TILE, TILE + 1, 2 * TILE + 40])
def test_tiles_equal_the_definition(length, before, tiny_shape):
    torch.manual_seed(length)
    shape, names = tiny_shape(windows=(None, None)), ["one"]
    sequences = Sequences(shape, random.Random(0))
    sequences.begin("one", ())
    if before:
        sequences.qkv(names, [before])
    sequences.qkv(names, [length])
    heads, kv_heads, known = shape.heads, shape.kv_heads, sequences.history["one"][1][0]
    mixed = tiled(known[before:, :heads], known[:, heads : heads + kv_heads], known[:, heads + kv_heads :])
    torch.testing.assert_close(mixed, sequences.expected(names, [length], 0))


def test_chunks_in_bfloat16_go_by_tiles_and_are_near(tiny_shape, monkeypatch):
    torch.manual_seed(0)
    shape, taken = tiny_shape(windows=(None, 13)), []
    monkeypatch.setattr("idlegrid.actors.llm.attention.tiled", lambda *args: taken.append(args) or tiled(*args))
    pages = Pages(shape, range(2), BLOCKS, BLOCK, torch.bfloat16, torch.device("cpu"))
    attention, sequences = dense(0)(pages, shape), Sequences(shape, random.Random(0))
    sequences.begin("one", tuple(range(40)))
    for step, length in enumerate((150, 90)):
        plan = Plan(step, (sequences.span("one", length),))
        attend = attention.begin(plan, lay_out(plan, BLOCK, torch.device("cpu")))
        for layer, qkv in enumerate(sequences.qkv(["one"], [length])):
            mixed, right = attend(layer, qkv.bfloat16()), sequences.expected(["one"], [length], layer)
            torch.testing.assert_close(mixed.double(), right, atol=0.03, rtol=0.03)
    assert len(taken) == 2  # the layer without a window

"""A batcher of a few lines that drives stages without a sequencer.

Imports torch only when a fixture is used: most tests of this folder don't need it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model  # noqa: F401 - a fixture

from idlegrid.actors.llm.plan import Plan, Span

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests


@dataclass
class Live:
    """A sequence that the batcher is not done with."""

    ids: list[int]
    prompt: int
    table: tuple[int, ...]
    done: int = 0
    logits: Any = None


@pytest.fixture
def drive() -> Callable[..., list[list[int]]]:
    """drive(stages, prompts, new, draw): greedy answers of `new` tokens from a chain of stages.

    Each step computes a random part of the sequences in random order, prompts in random chunks, over scattered blocks.
    """
    return _drive


def _drive(
    stages: Sequence[Any], prompts: Sequence[Sequence[int]], new: int, draw: random.Random, chunk: int = 9
) -> list[list[int]]:
    size, blocks = stages[0].pages.block_size, list(range(stages[0].pages.num_blocks))
    draw.shuffle(blocks)
    live: list[Live] = []
    for prompt in prompts:
        need = -(-(len(prompt) + new) // size)
        live.append(Live(list(prompt), len(prompt), tuple(blocks[:need])))
        blocks = blocks[need:]
    everybody = list(live)
    while live:
        batch = draw.sample(live, draw.randint(1, len(live)))
        spans = [_span(sequence, size, draw.randint(1, chunk)) for sequence in batch]
        rows = iter(forward(stages, spans).argmax(-1).tolist())
        for sequence, span in zip(batch, spans, strict=True):
            sequence.done = span.stop
            if span.logits:
                sequence.ids.append(next(rows))
        live = [sequence for sequence in live if len(sequence.ids) < sequence.prompt + new]
    return [sequence.ids[sequence.prompt :] for sequence in everybody]


def _span(sequence: Live, size: int, most: int) -> Span:
    tokens = tuple(sequence.ids[sequence.done : sequence.done + most])
    stop = sequence.done + len(tokens)
    table = sequence.table[: -(-stop // size)]
    return Span(sequence.done, tokens, table, logits=int(stop == len(sequence.ids)))


def forward(stages: Sequence[Any], spans: Sequence[Span], copies: tuple[Any, ...] = (), step: int | None = None) -> Any:
    """One step through a chain; by default the next one."""
    plan, x = Plan(stages[0].step + 1 if step is None else step, tuple(spans), copies), None
    for stage in stages:
        x = stage.forward(plan, x)
    return x


@pytest.fixture(name="forward")
def _forward() -> Callable[..., Any]:
    """forward(stages, spans, copies=(), step=None): one step through a chain."""
    return forward


@pytest.fixture
def tiny_shape() -> Callable[..., Any]:
    """tiny_shape(windows=(None, …)): the sizes of a model of four query heads that share two, of eight dimensions."""
    import torch

    from idlegrid.actors.llm.families import Architecture, Family

    def make(windows: tuple[int | None, ...] = (None,) * 8) -> Architecture:
        return Architecture(
            model_type="llama",
            family=Family(),
            num_layers=len(windows),
            hidden=32,
            intermediate=48,
            heads=4,
            kv_heads=2,
            head_dim=8,
            vocab=50,
            norm_eps=1e-6,
            tied=False,
            max_positions=512,
            windows=windows,
            inverse_frequencies=torch.ones(4),
            rotary_scale=1.0,
        )

    return make

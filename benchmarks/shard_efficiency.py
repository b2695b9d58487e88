"""What cutting a model in three costs on one machine, for `shard_chain.py`: 8 requests at once, no delay.

A chain of three stages of one thread each, every one a process, and its head and sequencer here, against the whole
model in one stage in this process, on the same cores: with one thread, as each of the stages has, and one each core.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shard_grid import Grid
from shard_machines import BLOCK, BLOCKS, pin
from shard_requests import asked, engine, run
from stage import SHAPES, make, say

from idlegrid.actors.llm.chain import LocalChain
from idlegrid.actors.llm.stage import Stage

MODELS = ("llama-32m", "llama-160m")
TURNS = 3


def measured(folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    """By model, and by the cores that both sides have."""
    return {shape: _of_model(shape, folder / f"efficiency-{shape}", cores) for shape in MODELS}


def _of_model(shape: str, folder: Path, cores: Sequence[int]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    layers, mine = SHAPES[shape]["num_hidden_layers"], os.sched_getaffinity(0)
    make(shape, torch.float32, folder)
    grid = Grid(folder, 3, cores, layers)
    whole = Stage(folder, range(layers), dtype=torch.float32, num_blocks=BLOCKS, block_size=BLOCK)
    try:
        grid.delay(0)
        for name, used in (("three_cores", cores[:3]), ("one_core", cores[:1])):
            pin(used)
            for each in grid.stages:
                each.ask("cores", used)
            table[name] = _compared(grid, whole, len(used), SHAPES[shape]["vocab_size"])
            say(f"chain of three against one stage, {shape}, {name}: {table[name]}")
    finally:
        pin(sorted(mine))
        torch.set_num_threads(1)
        grid.close()
    return table


def _compared(grid: Grid, whole: Stage, threads: int, vocab: int) -> dict[str, Any]:
    """All sides take turns."""
    sides = {"chain": 1, "whole": 1} | ({"whole_all_threads": threads} if threads > 1 else {})
    rates: dict[str, list[float]] = {name: [] for name in sides}
    whole.step = -1
    with grid.chain() as chain:
        here, there = engine(LocalChain([whole])), engine(chain)
        for turn in range(TURNS + 1):
            for side, number in sides.items():
                torch.set_num_threads(number)
                rate = run(there if side == "chain" else here, asked(vocab, 8, 64, 32, seed=turn)).rate
                if turn:  # the first one warms up
                    rates[side].append(rate)
        parts, most = chain.parts(8), chain.depth
    medians = {side: statistics.median(each) for side, each in rates.items()}
    ratios = {side: round(medians["chain"] / rate, 2) for side, rate in medians.items() if side != "chain"}
    return {
        "ratio": ratios.pop("whole"),
        **{f"against_{side}": ratio for side, ratio in ratios.items()},
        **{f"{side}_tokens_per_s": [round(rate) for rate in each] for side, each in rates.items()},
        "steps_that_share": parts,
        "steps_at_most": most,
    }

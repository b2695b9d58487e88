"""Batches that turn out too large for a GPU's memory, computed in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_halves(batch: Sequence[T], run: Callable[[Sequence[T]], list[R]], fits: Callable[[int], None]) -> list[R]:
    """What `run` makes of a batch, in order: at once, or in halves of halves where that is too much.

    `fits` hears of each smaller size that is tried, so that the next batch begins with it. Raises
    torch.OutOfMemoryError where one item is too much.
    """
    try:
        return run(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # outside of the handler, which holds on to the tensors of the failed batch
    size = len(batch) // 2
    fits(size)
    torch.cuda.empty_cache()
    return in_halves(batch[:size], run, fits) + in_halves(batch[size:], run, fits)

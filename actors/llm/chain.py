"""What computes a sequencer's steps: the stages of one model one after the other, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from .plan import Plan
from .sampling import Sampled, SamplingRow, sample


class Computes(Protocol):
    """One stage of a chain."""

    def forward(self, plan: Plan, x: torch.Tensor | None = None) -> torch.Tensor:
        """See `stage.Stage.forward`."""


class Chain(Protocol):
    """Stages in a row, here or elsewhere."""

    def compute(self, plan: Plan, rows: Sequence[SamplingRow]) -> Sampled:
        """Compute a step, and choose a token for each of its rows of logits, in their order.

        Whatever it raises, the step is lost, and may be computed again.
        """


class LocalChain:
    """Stages in this process: the first takes tokens, the last gives logits."""

    def __init__(self, stages: Sequence[Computes]) -> None:
        if not stages:
            raise ValueError("a chain needs at least one stage")
        self.stages = tuple(stages)

    def compute(self, plan: Plan, rows: Sequence[SamplingRow]) -> Sampled:
        """See Chain."""
        x: torch.Tensor | None = None
        for stage in self.stages:
            x = stage.forward(plan, x)
        assert x is not None
        return sample(x, rows)

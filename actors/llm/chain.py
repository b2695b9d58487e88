"""What computes a sequencer's steps: the stages of one model one after the other, and the choice of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import torch

from .plan import Plan
from .sampling import Sampled, SamplingRow, sample


class ChainBroken(ConnectionError):
    """The chain gives no answers any more, and what its stages held is lost, until it is mended."""


class NotMended(RuntimeError):
    """A broken chain could not be put together again in time; the message says what is missing."""


class Computes(Protocol):
    """One stage of a chain."""

    def forward(
        self, plan: Plan, x: torch.Tensor | None = None, *, unless: Callable[[], bool] | None = None
    ) -> torch.Tensor:
        """See `stage.Stage.forward`."""


class Chain(Protocol):
    """Stages in a row, here or elsewhere."""

    @property
    def depth(self) -> int:
        """How many steps may be under way, for no stage to wait for work: 1 or more. May change."""

    def parts(self, tokens: int) -> int:
        """In how many steps so many tokens should be computed that could be in one: 1 to `depth`. May change."""

    def submit(
        self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None
    ) -> Future[Sampled]:
        """Compute a step, and choose a token for each of its rows of logits, in their order.

        Steps are computed, and answered, in the order in which they come. Whatever the answer raises, the step is lost
        and may be computed again; ChainBroken: all steps are lost, and `mend` is to be called. `unless`: a chain may
        ask it as often as it likes, and give up the step with GivenUp as soon as it says so; then the plan must have no
        copies.
        """

    def mend(self, why: str) -> Future[None]:
        """Make a broken chain whole again, with empty pages: everything has to be computed anew. Raises NotMended."""


class LocalChain:
    """Stages in this process: the first takes tokens, the last gives logits. Computes when it is asked."""

    depth = 1

    def __init__(self, stages: Sequence[Computes]) -> None:
        if not stages:
            raise ValueError("a chain needs at least one stage")
        self.stages = tuple(stages)

    def parts(self, tokens: int) -> int:
        """See Chain. One at a time is computed here, so the larger, the better."""
        return 1

    def compute(self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None) -> Sampled:
        """As `submit`, but waits."""
        x: torch.Tensor | None = None
        for stage in self.stages:
            x = stage.forward(plan, x) if unless is None else stage.forward(plan, x, unless=unless)
        assert x is not None
        return sample(x, rows)

    def submit(
        self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None
    ) -> Future[Sampled]:
        """See Chain. `unless` is asked before each layer."""
        answer: Future[Sampled] = Future()
        try:
            answer.set_result(self.compute(plan, rows, unless))
        except Exception as error:  # noqa: BLE001 - whoever takes the answer gets it
            answer.set_exception(error)
        return answer

    def mend(self, why: str) -> Future[None]:
        """See Chain. Nothing between its stages can break."""
        mended: Future[None] = Future()
        mended.set_exception(NotMended(why))
        return mended

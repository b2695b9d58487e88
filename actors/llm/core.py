"""The engine without its thread: sequencer, chain of stages, sampling and text of one model, one step at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch
from tokenizers import Tokenizer

from .generation import Generation, TokenMask
from .plan import Plan
from .request import Event, FinishReason, Request
from .sampling import sample
from .sequence import Outcome
from .sequencer import Sequencer
from .step import Accepted, Step

logger = logging.getLogger(__name__)

Told = tuple[str, Event]
"""A request's id and something that happened to it."""


class Computes(Protocol):
    """One link of a chain: a stage, local or remote."""

    def forward(self, plan: Plan, x: torch.Tensor | None = None) -> torch.Tensor:
        """See `stage.Stage.forward`."""


class EngineCore:
    """Adds requests, computes steps, tells events. Not thread-safe; no clock (`now` is an argument), no I/O.

    Whatever goes wrong, every request that `add` accepted gets exactly one `Finished`, and nothing after it.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        stages: Sequence[Computes],
        tokenizer: Tokenizer,
        end_ids: Collection[int],
        constrain: Callable[[Request], TokenMask | None],
    ) -> None:
        """`constrain`: a fresh constraint for a request, None if it asks for none."""
        self.sequencer = sequencer
        self._stages = stages
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._constrain = constrain
        self._generations: dict[str, Generation] = {}

    @property
    def has_work(self) -> bool:
        """A call of `step` would do something."""
        return self.sequencer.has_work

    def add(self, request: Request, now: float) -> list[Told]:
        """Accept a request. Raises `RequestRefused`. Returns its end if its `known` tokens were all it wanted."""
        generation = Generation(request, self._tokenizer, self._end_ids, self._constrain(request))
        self.sequencer.add(request, now)
        self._generations[request.id] = generation
        if generation.stop is None:
            return []
        return self._end(self.sequencer.abort(request.id, FinishReason.STOP))

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORTED) -> list[Told]:
        """End a request now; its pages are free at once. Nothing happens if it has ended."""
        return self._end(self.sequencer.abort(request_id, reason))

    def step(self, now: float) -> list[Told]:
        """Compute one step. Returns what happened, in order."""
        step = self.sequencer.schedule(now)
        told = [event for outcome in step.finished for event in self._end(outcome)]
        if not step:
            return told
        try:
            logits = self._forward(step.plan)
        except Exception as error:  # whatever it is, the requests of this step must end
            logger.exception("step %d failed", step.plan.step)
            return told + self._failed(step, f"the model failed: {type(error).__name__}")
        return told + self._choose(step, logits)

    def _forward(self, plan: Plan) -> torch.Tensor:
        x: torch.Tensor | None = None
        for stage in self._stages:
            x = stage.forward(plan, x)
        if x is None:
            raise RuntimeError("the chain has no stage")
        return x

    def _failed(self, step: Step, error: str) -> list[Told]:
        told = [
            event
            for sequence in step.sequences
            for event in self._end(self.sequencer.abort(sequence.id, FinishReason.ERROR), error)
        ]
        self.sequencer.fail(step)
        return told

    def _choose(self, step: Step, logits: torch.Tensor) -> list[Told]:
        rows = [self._generations[row.id].row(row.position) for row in step.rows]
        sampled = sample(logits, rows)
        failed = set(sampled.failed)
        told: list[Told] = []
        accepted = []
        for index, row in enumerate(step.rows):
            if index in failed:
                accepted.append(Accepted((), FinishReason.ERROR))
                continue
            taken = self._generations[row.id].take(sampled.ids[index], sampled.logprobs[index])
            told.append((row.id, taken.event))
            accepted.append(Accepted(taken.event.ids, taken.finish))
        for outcome in self.sequencer.update(step, accepted):
            told += self._end(
                outcome, "no token can be chosen: the model's logits are not finite, or all are forbidden"
            )
        return told

    def _end(self, outcome: Outcome | None, error: str = "") -> list[Told]:
        if outcome is None:
            return []
        generation = self._generations.pop(outcome.id)
        told = error if outcome.reason is FinishReason.ERROR else None
        return [(outcome.id, generation.finished(outcome, told))]

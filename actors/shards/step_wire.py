"""What travels with a step: the plan for every stage, how tokens are chosen for the last one, and what came of it.

Only the first stage is told token ids; the others hear how many there are. What comes from a peer is checked here to be
of the right kinds and sizes; that a plan can be computed, the stage checks (`llm.layout.check`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..llm.plan import Copy, Plan, Span
from ..llm.request import Sampling, TokenLogprob
from ..llm.sampling import Sampled, SamplingRow
from .errors import FrameRefused
from .frame import Buffer
from .notes import from_note, to_note

_SEEDS = 2**64
"""Randomness is keyed by a seed's last 64 bits (llm.drawing)."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time of a step went, in seconds."""

    busiest: float = 0.0
    """Of the stage that computed longest."""
    waited: float = 0.0
    """For stages that were busy with steps before it."""

    def and_here(self, computing: float, waited: float) -> Spent:
        """With another stage."""
        return Spent(max(self.busiest, computing), self.waited + waited)


NOTHING_SPENT = Spent()


@dataclass(frozen=True, slots=True)
class StepNote:
    """A step as a stage gets it."""

    plan: Plan
    """With zeros for token ids, except on the first stage."""
    rows: bytes
    """How tokens are chosen, for the last stage: see `to_rows`."""
    spent: Spent = NOTHING_SPENT
    """In the stages before."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step that one of the stages before could not compute."""

    why: str


@dataclass(frozen=True, slots=True)
class _Penalised:
    repetition: float
    ids: NDArray[np.int64]
    subtracted: NDArray[np.float32]


# ---- plans


def step_to_note(plan: Plan, rows: bytes, *, ids: bool, spent: Spent = NOTHING_SPENT) -> bytes:
    """`ids`: with token ids, as the first stage needs them; else with their number."""
    spans = [(span.start, span.tokens if ids else len(span.tokens), span.blocks, span.logits) for span in plan.spans]
    copies = [(copy.source, copy.target) for copy in plan.copies]
    return to_note(
        {"step": plan.step, "spans": spans, "copies": copies, "rows": rows, "spent": (spent.busiest, spent.waited)}
    )


def step_from_note(note: Buffer, hidden: int | None) -> StepNote | StepFailed:
    """`hidden`: rows of hidden states that came with it; None on the first stage. Raises FrameRefused."""
    value = from_note(note)
    try:
        if "failed" in value:
            return StepFailed(_text(value["failed"]))
        if hidden is not None and sum(_count(count) for _, count, _, _ in value["spans"]) != hidden:
            raise FrameRefused(f"a plan came with {hidden} rows of hidden states, and is of another number of tokens")
        spans = tuple(_span(span, hidden is None) for span in value["spans"])
        copies = tuple(Copy(_count(source), _count(target)) for source, target in value["copies"])
        return StepNote(Plan(_count(value["step"]), spans, copies), bytes(value["rows"]), _spent(value))
    except (KeyError, TypeError, ValueError) as error:
        raise FrameRefused(f"a step came that can't be read: {error!r}") from None


def failed_to_note(why: str) -> bytes:
    """A step that was not computed."""
    return to_note({"failed": why})


def _span(span: Any, ids: bool) -> Span:
    start, tokens, blocks, logits = span
    known = tuple(map(_count, tokens)) if ids else (0,) * tokens
    return Span(_count(start), known, tuple(map(_count, blocks)), _count(logits))


# ---- how tokens are chosen


def to_rows(rows: Sequence[SamplingRow]) -> bytes:
    """One for each row of logits."""
    return to_note([_row(row) for row in rows])


def rows_from(note: Buffer) -> list[SamplingRow]:
    """Raises FrameRefused."""
    try:
        return [_read_row(row) for row in from_note(note)]
    except (KeyError, TypeError, ValueError) as error:
        raise FrameRefused(f"rows came that can't be read: {error!r}") from None


def _row(row: SamplingRow) -> dict[str, Any]:
    sampling, penalties = row.sampling, row.penalties
    said: dict[str, Any] = {
        "at": row.position,
        "t": sampling.temperature,
        "cut": (sampling.top_k, sampling.top_p, sampling.min_p),
        "seed": sampling.seed % _SEEDS,
    }
    if sampling.logprobs is not None:
        said["logprobs"] = sampling.logprobs
    if sampling.logit_bias:
        said["bias"] = tuple(sampling.logit_bias.items())
    if row.forbidden:
        said["forbidden"] = row.forbidden
    if row.allowed is not None:
        said["allowed"] = row.allowed.tobytes()
    if penalties is not None:
        said["seen"] = (penalties.repetition, penalties.ids.tobytes(), penalties.subtracted.tobytes())
    return said


def _read_row(said: Any) -> SamplingRow:
    top_k, top_p, min_p = said["cut"]
    sampling = Sampling(
        temperature=float(said["t"]),
        top_k=_count(top_k),
        top_p=float(top_p),
        min_p=float(min_p),
        seed=_count(said["seed"]),
        logprobs=None if "logprobs" not in said else _count(said["logprobs"]),
        logit_bias={_count(token): float(bias) for token, bias in said.get("bias", ())},
    )
    row = SamplingRow(sampling, _count(said["at"]), forbidden=tuple(map(_count, said.get("forbidden", ()))))
    if "allowed" in said:
        row.allowed = np.frombuffer(said["allowed"], np.int32)
    if "seen" in said:
        repetition, ids, subtracted = said["seen"]
        seen = _Penalised(float(repetition), np.frombuffer(ids, np.int64), np.frombuffer(subtracted, np.float32))
        if len(seen.ids) != len(seen.subtracted):
            raise ValueError(f"{len(seen.subtracted)} penalties for {len(seen.ids)} tokens")
        row.penalties = seen
    return row


# ---- what came of it


def sampled_to_note(sampled: Sampled, spent: Spent = NOTHING_SPENT) -> bytes:
    """The answer of the last stage."""
    logprobs = [None if one is None else (one.token, one.logprob, one.top) for one in sampled.logprobs]
    return to_note(
        {"ids": sampled.ids, "logprobs": logprobs, "lost": sampled.failed, "spent": (spent.busiest, spent.waited)}
    )


def sampled_from_note(note: Buffer) -> tuple[Sampled | StepFailed, Spent]:
    """Raises FrameRefused."""
    value = from_note(note)
    try:
        if "failed" in value:
            return StepFailed(_text(value["failed"])), Spent()
        logprobs = tuple(map(_logprob, value["logprobs"]))
        return Sampled(tuple(map(_count, value["ids"])), logprobs, tuple(map(_count, value["lost"]))), _spent(value)
    except (KeyError, TypeError, ValueError) as error:
        raise FrameRefused(f"an answer came that can't be read: {error!r}") from None


def _logprob(said: Any) -> TokenLogprob | None:
    if said is None:
        return None
    token, logprob, top = said
    return TokenLogprob(_count(token), float(logprob), tuple((_count(one), float(value)) for one, value in top))


def _spent(said: Any) -> Spent:
    busiest, waited = map(float, said["spent"])
    if not (0 <= busiest < math.inf and 0 <= waited < math.inf):
        raise ValueError(f"{said['spent']} are no seconds")
    return Spent(busiest, waited)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of anything")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value

"""The next token of each row of a batch of logits: penalties, masks, truncation, and randomness that no batch changes.

The order is vLLM's: log-probabilities of the model's own logits are noted first; then constraint, min_tokens and bias,
penalties, temperature, min-p, top-k, top-p; then the choice. Greedy is the argmax after bias and penalties.

How a draw is made so that a token depends on its own request alone: `drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import drawing
from .drawing import Candidates
from .request import Sampling, TokenLogprob

GREEDY_BELOW = 1e-5
"""A temperature under this is greedy, as in vLLM."""
WIDTHS = (256, 4096)
"""So many of the likeliest tokens are looked at first, then so many; only what is undecided then is sorted whole."""


class Penalised(Protocol):
    """Tokens of one sequence that are to be penalised; see Penalties."""

    @property
    def repetition(self) -> float:
        """What their logits are divided by, or multiplied with below zero."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """(K,) distinct tokens."""

    @property
    def subtracted(self) -> NDArray[np.float32]:
        """(K,) what is taken from the logit of each."""


@dataclass(slots=True)
class SamplingRow:
    """What one row of logits needs to become a token."""

    sampling: Sampling
    position: int
    """Index in the sequence (prompt and output) of the token that is chosen: with the seed, the key of its noise."""
    penalties: Penalised | None = None
    forbidden: tuple[int, ...] = ()
    """Ids that can't be chosen now: those that would stop before min_tokens."""
    allowed: NDArray[np.int32] | None = None
    """Bitmask (ceil(V / 32),): bit i % 32 of word i // 32 says whether a constraint allows token i."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.sampling.temperature < GREEDY_BELOW

    @property
    def plain(self) -> bool:
        """Whether the logits are taken as they are."""
        return not (self.penalties or self.forbidden or self.sampling.logit_bias) and self.allowed is None


@dataclass(frozen=True, slots=True)
class Sampled:
    """The chosen tokens, one for each row."""

    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob | None, ...]
    """Where asked for: of the model's logits as they came (log-softmax), before anything changed them."""
    failed: tuple[int, ...] = ()
    """Rows without a choosable token (not a number, or all forbidden): their id means nothing."""


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> Sampled:
    """Chooses a token for each of the N rows of `logits` (N, V), any float dtype and device; `logits` stay unchanged.

    Equal inputs of a row give an equal token, whatever the other rows are.
    """
    if logits.shape[0] != len(rows):
        raise ValueError(f"{logits.shape[0]} rows of logits for {len(rows)} sampling rows")
    if not rows:
        return Sampled((), ())
    logits = logits.detach()
    drawn = [i for i, row in enumerate(rows) if not (row.greedy and row.plain)]
    ids = np.zeros(len(rows), np.int64)
    best = np.zeros(len(rows), np.float32)
    if len(drawn) < len(rows):
        plain = [i for i, row in enumerate(rows) if row.greedy and row.plain] if drawn else None
        where = slice(None) if plain is None else plain
        ids[where], best[where] = _argmax(_select(logits, plain))
    if drawn:
        ids[drawn], best[drawn] = _choose(_select(logits, drawn, copy=True), [rows[i] for i in drawn])
    failed = () if np.isfinite(best).all() else tuple(np.flatnonzero(~np.isfinite(best)).tolist())
    tokens = tuple(ids.tolist())
    return Sampled(tokens, _logprobs(logits, rows, tokens), failed)


def _select(logits: Tensor, rows: list[int] | None, *, copy: bool = False) -> Tensor:
    """(n, V) float32: the rows of these indices, None for all."""
    if rows is not None and len(rows) < logits.shape[0]:
        return logits[rows].float()
    return logits.to(torch.float32, copy=copy)


def _choose(x: Tensor, rows: Sequence[SamplingRow]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The token of each row and its score (finite if it could be chosen). Changes `x` (n, V)."""
    _mask(x, rows)
    _bias(x, rows)
    _penalise(x, rows)
    ids, best = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.float32)
    greedy = [i for i, row in enumerate(rows) if row.greedy]
    drawn = [i for i, row in enumerate(rows) if not row.greedy]
    if greedy:
        ids[greedy], best[greedy] = _argmax(_select(x, greedy))
    if drawn:
        ids[drawn], best[drawn] = _draw(_select(x, drawn), [rows[i] for i in drawn])
    return ids, best


def _draw(x: Tensor, rows: Sequence[SamplingRow]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The token of each row of `x` (n, V), and the row's maximum: finite if there was a choice. Changes `x`."""
    x /= torch.tensor([row.sampling.temperature for row in rows], device=x.device)[:, None]
    _, peak = _argmax(x)
    if not np.isfinite(peak).all():
        x[torch.from_numpy(~np.isfinite(peak)).to(x.device)] = 0.0  # there is no choice: anything will do
    x -= torch.from_numpy(np.where(np.isfinite(peak), peak, np.float32(0))).to(x.device)[:, None]
    samplings = [row.sampling for row in rows]
    keys = np.array([drawing.key(row.sampling.seed, row.position) for row in rows], np.uint64)
    ids = np.zeros(len(rows), np.int64)
    pending = np.arange(len(rows))
    for level, width in enumerate((*WIDTHS, x.shape[1])):
        asked = [samplings[i] for i in pending]
        candidates = _likeliest(x if level == 0 else x[pending], asked, width)
        ids[pending] = drawn = drawing.draw(candidates, asked, keys[pending], level)
        for place in np.flatnonzero(drawn == drawing.OUTSIDE):
            row = x[pending[place]]
            row.masked_fill_(row > float(candidates.border[place]), -math.inf)
        pending = pending[drawn < 0]
        if not len(pending):
            break
    return ids, peak


# -- changes to the logits -------------------------------------------------------------------------------------------


def _mask(x: Tensor, rows: Sequence[SamplingRow]) -> None:
    """What a constraint or min_tokens doesn't allow becomes -inf."""
    for i, row in enumerate(rows):
        if row.allowed is not None:
            bits = np.unpackbits(row.allowed.view(np.uint8), bitorder="little", count=x.shape[1])
            x[i].masked_fill_(torch.from_numpy(bits == 0).to(x.device), -math.inf)
        if row.forbidden:
            x[i, list(row.forbidden)] = -math.inf


def _bias(x: Tensor, rows: Sequence[SamplingRow]) -> None:
    for i, row in enumerate(rows):
        if bias := row.sampling.logit_bias:
            x[i, list(bias)] += torch.tensor(list(bias.values()), device=x.device)


def _penalise(x: Tensor, rows: Sequence[SamplingRow]) -> None:
    """All rows in one gather and one scatter: only the tokens that a sequence has seen are touched."""
    having = [(i, row.penalties) for i, row in enumerate(rows) if row.penalties is not None]
    if not having:
        return
    sizes = [len(penalties.ids) for _, penalties in having]
    at = torch.from_numpy(np.repeat([i for i, _ in having], sizes)).to(x.device)
    tokens = torch.from_numpy(np.concatenate([penalties.ids for _, penalties in having])).to(x.device)
    repetition = np.repeat(np.asarray([penalties.repetition for _, penalties in having], np.float32), sizes)
    factor = torch.from_numpy(repetition).to(x.device)
    subtracted = torch.from_numpy(np.concatenate([penalties.subtracted for _, penalties in having])).to(x.device)
    seen = x[at, tokens]
    x[at, tokens] = torch.where(seen > 0, seen / factor, seen * factor) - subtracted


# -- the likeliest tokens (on a CPU, NumPy's kernels are an order of magnitude faster than torch's) --------------------


def _argmax(x: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The first index of each row's maximum and the maximum; a NaN counts as the maximum. (n, V) → (n,), (n,)."""
    if x.device.type == "cpu":
        values = x.numpy()
        ids = values.argmax(1)
        return ids, values[np.arange(len(ids)), ids]
    best, at = x.max(1)
    return at.cpu().numpy(), best.cpu().numpy()


def _likeliest(x: Tensor, samplings: Sequence[Sampling], width: int) -> Candidates:
    """The `width` likeliest tokens of each row of `x` (n, V), less those that equal the last of them."""
    if x.device.type == "cpu":
        return _likeliest_on_cpu(x.numpy(), samplings, width)
    return _likeliest_on_device(x, width)


def _likeliest_on_device(x: Tensor, width: int) -> Candidates:
    top, ids = x.topk(min(width, x.shape[1]), dim=1)
    border = top[:, -1:] if width < x.shape[1] else torch.full_like(top[:, -1:], -math.inf)
    outside = torch.exp(x).masked_fill_(x > border, 0.0).sum(1, dtype=torch.float64)
    top = top.masked_fill(top <= border, -math.inf)
    return Candidates(top.cpu().numpy(), ids.cpu().numpy(), border[:, 0].cpu().numpy(), outside.cpu().numpy())


def _likeliest_on_cpu(x: NDArray[np.float32], samplings: Sequence[Sampling], width: int) -> Candidates:
    n, vocab = x.shape
    width = min(width, vocab)
    top, ids = np.full((n, width), -np.inf, np.float32), np.zeros((n, width), np.int64)
    border, outside = np.full(n, -np.inf, np.float32), np.zeros(n)
    for i, (row, sampling) in enumerate(zip(x, samplings, strict=True)):
        limited = bool(sampling.top_k or sampling.min_p)
        if width < vocab:
            border[i] = np.partition(row, vocab - width)[vocab - width]
            among = np.flatnonzero(row > border[i])
            outside[i] = np.inf if limited else max(_weight(row) - _weight(row[among]), 0.0)
        else:
            among = np.arange(vocab)
        if limited or sampling.top_p < 1:
            among = among[np.argsort(-row[among])]
        top[i, : len(among)], ids[i, : len(among)] = row[among], among
    return Candidates(top, ids, border, outside)


def _weight(x: NDArray[np.float32]) -> float:
    return float(np.exp(x).sum(dtype=np.float64))


# -- log-probabilities -------------------------------------------------------------------------------------------------


def _logprobs(logits: Tensor, rows: Sequence[SamplingRow], ids: tuple[int, ...]) -> tuple[TokenLogprob | None, ...]:
    asked = [i for i, row in enumerate(rows) if row.sampling.logprobs is not None]
    given: list[TokenLogprob | None] = [None] * len(rows)
    if not asked:
        return tuple(given)
    logs = torch.log_softmax(_select(logits, asked), dim=1)
    chosen = logs.gather(1, torch.tensor([ids[i] for i in asked], device=logs.device)[:, None])[:, 0].tolist()
    width = min(max(rows[i].sampling.logprobs or 0 for i in asked), logs.shape[1])
    values, tokens = (part.tolist() for part in logs.topk(width, dim=1))
    for place, i in enumerate(asked):
        count = rows[i].sampling.logprobs or 0
        top = tuple(zip(tokens[place][:count], values[place][:count], strict=True))
        given[i] = TokenLogprob(ids[i], chosen[place], top)
    return tuple(given)

"""A draw from the likeliest tokens: min-p, top-k, top-p, and noise that is a function of (seed, position, token).

*Counter-based randomness.* The choice is a Gumbel maximum; no generator has a state, so a token depends neither on what
shares its batch, nor on how a prompt was cut, nor on which replica goes on after a failure.

*Few candidates.* A sequence rarely needs more than its few hundred likeliest tokens, so only these are sorted. What
lies outside them is told by one number, its total weight: the maximum of its Gumbel variables is itself Gumbel, located
at the logarithm of that weight, so "something outside" takes part in the draw as one more candidate, exactly.

*Thresholds.* Truncation keeps every token that reaches a threshold; equals of the last kept one stay in, so that the
outcome doesn't depend on the order into which equals happen to be sorted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .request import Sampling

UNDECIDED = -1
"""The candidates don't tell: draw again with all tokens as candidates."""
OUTSIDE = -2
"""The draw fell on something outside the candidates: draw again among these alone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest tokens of n rows, at most w each."""

    logits: NDArray[np.float32]
    """(n, w), scaled by temperature, 0 for a row's likeliest token, falling (unless nothing is cut off); -inf: none."""
    ids: NDArray[np.int64]
    """(n, w)"""
    border: NDArray[np.float32]
    """(n,): every token outside has at most this logit, every candidate a greater one; -inf: nothing is outside."""
    outside: NDArray[np.float64]
    """(n,): the sum of exp(logit) over what is outside; inf: not counted."""


def draw(
    candidates: Candidates, samplings: Sequence[Sampling], keys: NDArray[np.uint64], level: int = 0
) -> NDArray[np.int64]:
    """(n,) token ids, UNDECIDED or OUTSIDE. `keys` (n,) are those of `key`; `level` counts the draws for one token.

    In vLLM's order: min-p keeps tokens at least that share as likely as the likeliest, top-k keeps k of those, and
    top-p the likeliest of what is left that together have that share of its probability.
    """
    top = candidates.logits
    threshold, decided, open_end = _thresholds(candidates, samplings)
    at, column = np.nonzero((top >= threshold[:, None]) & (top > -np.inf))
    scores = np.full_like(top, -np.inf)
    scores[at, column] = top[at, column] + gumbel(keys[at], candidates.ids[at, column])
    rows = np.arange(len(top))
    best = scores.argmax(1)
    ids = np.where(decided, candidates.ids[rows, best], UNDECIDED)
    if open_end.any():
        outside = np.log(candidates.outside, out=np.full(len(top), -np.inf), where=open_end)
        wins = outside + gumbel(keys, np.full(len(top), OUTSIDE - level)) > scores[rows, best]
        ids[wins & open_end] = OUTSIDE
    return ids


_Booleans = NDArray[np.bool_]


def _thresholds(
    candidates: Candidates, samplings: Sequence[Sampling]
) -> tuple[NDArray[np.float32], _Booleans, _Booleans]:
    """For each row: the least logit that is kept, whether the candidates tell it, whether all outside is kept too."""
    top, border, outside = candidates.logits, candidates.border, candidates.outside
    rows = np.arange(len(top))
    ks = np.array([s.top_k for s in samplings])
    min_p = np.array([math.log(s.min_p) if s.min_p > 0 else -math.inf for s in samplings], np.float32)
    top_p = np.array([s.top_p for s in samplings])
    counted = (top > -np.inf).sum(1)
    kth = np.where((ks > 0) & (ks <= counted), top[rows, np.clip(ks, 1, top.shape[1]) - 1], -np.inf)
    base = np.maximum(min_p, kth)
    closed = (base > border) | (outside == 0)  # all that min-p and top-k keep are candidates
    unlimited = (ks == 0) & np.isneginf(min_p) & np.isfinite(outside)

    weights = np.exp(top, dtype=np.float64) * (top >= base[:, None])
    total = weights.sum(1) + np.where(closed, 0.0, outside)
    reached = weights.cumsum(1) >= (top_p * total)[:, None]
    enough = reached.any(1)
    nucleus = np.where((top_p < 1) & enough, top[rows, reached.argmax(1)], -np.inf)
    decided = closed | (unlimited & ((top_p >= 1) | enough))
    return np.maximum(base, nucleus), decided, unlimited & (top_p >= 1) & ~closed


# SplitMix64 (Steele, Lea, Flood 2014), a counter-based generator: a key's sequence is indexed by the token id.
_GOLDEN, _MIX_A, _MIX_B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def key(seed: int, position: int) -> int:
    """The 64-bit key of the noise at one position of a sequence."""
    return _mixed((_mixed(seed & _MASK) + (position + 1) * _GOLDEN) & _MASK)


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_A) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_B) & _MASK
    return z ^ (z >> 31)


def gumbel(keys: NDArray[np.uint64], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Standard Gumbel noise (K,) of `keys` (K,) and token ids (K,), from 53 random bits each."""
    z = keys + (tokens + 1).astype(np.uint64) * np.uint64(_GOLDEN)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_MIX_A)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_MIX_B)
    z ^= z >> np.uint64(31)
    uniform = ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # in (0, 1)
    waiting = -np.log1p(-uniform)  # exponential; precise near zero, where it decides
    return -np.log(waiting).astype(np.float32)

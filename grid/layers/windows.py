"""All ranges of layers that one donor could hold, each with its tokens a second, as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .capacity import Capacity, LayerDonor
from .shape import LayerRange, ModelShape

Ints = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Windows:
    """The ranges that fit a donor: `starts`, `ends` and `rates` (tokens/s), each (windows,)."""

    starts: Ints
    ends: Ints
    rates: Rates

    def range(self, place: int) -> LayerRange:
        """One of them."""
        return LayerRange(int(self.starts[place]), int(self.ends[place]))


def windows(capacity: Capacity, donor: LayerDonor, lengths: Iterable[int] | None = None) -> Windows:
    """The ranges that fit `donor`, longest first, then by start: of any length, or of these.

    With `lengths`, the longest that fit at the model's ends are there too, where embedding and head take memory.
    """
    model = capacity.model
    if lengths is None:
        starts, ends, extra = _spans(model, tuple(range(model.layers, 0, -1)), 0, 0)
    else:
        wanted = sorted({length for length in lengths if 1 <= length <= model.layers}, reverse=True)
        starts, ends, extra = _spans(model, tuple(wanted), capacity.longest(donor, 0), capacity.longest_to_end(donor))
    counts = ends - starts
    fits = (counts * capacity.bytes_a_layer + extra <= donor.memory_bytes) & (donor.rate > 0)
    return _rated(capacity, donor, starts[fits], ends[fits], extra[fits])


@lru_cache(maxsize=256)
def _spans(model: ModelShape, lengths: tuple[int, ...], first: int, final: int) -> tuple[Ints, Ints, Ints]:
    """Starts, ends, and bytes besides blocks, of ranges of these lengths, of the `first` and of the `final` layers."""
    last = model.layers
    spans = [(start, start + length) for length in lengths for start in range(last - length + 1)]
    spans += [(0, first)] * (first > 0) + [(last - final, last)] * (final > 0)
    starts, ends = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    extra = np.array([model.end_bytes(start, end) for start, end in spans], dtype=np.int64)
    return starts, ends, extra


def _rated(capacity: Capacity, donor: LayerDonor, starts: Ints, ends: Ints, extra: Ints) -> Windows:
    """With tokens/s: `Capacity.tokens_per_second` for arrays."""
    model, counts = capacity.model, ends - starts
    compute = donor.rate / (counts + model.head_layers * (ends == model.layers))
    room = donor.memory_bytes - counts * model.layer_bytes - extra
    memory = room / (counts * model.kv_bytes * capacity.traffic.context_tokens) / capacity.traffic.token_seconds
    network = min(donor.up_bytes_s, donor.down_bytes_s) / model.activation_bytes
    return Windows(starts, ends, np.minimum(np.minimum(compute, memory), network))

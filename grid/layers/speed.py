"""How fast a donor computes layers: what was measured of it, smoothed over its steps, and what is forgotten again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from .shape import require


class Source(StrEnum):
    """Where a speed comes from, the best first. The value is what answers show."""

    MEASURED = "measured"
    """By the steps of a stage that served."""
    PROBED = "probed"
    """By a short trial on the donor, without the model."""
    PRESUMED = "presumed"
    """By its GPU's name, or its cores (`presumed`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What a donor does in a second, in one precision, on one device.

    Seconds follow from it for layers of any size; what was measured on layers of one size counts for these alone.
    """

    device: str
    """``cpu`` or ``cuda``."""
    dtype: str
    """As ``float32``. Empty, of what is presumed: any."""
    source: Source
    layer_bytes: int = 0
    """Of the layers that it was measured on. 0: of none, it counts for any."""
    read_bytes_s: float
    """Bytes of weights that pass in a second when one token is decoded."""
    compute_bytes_s: float = 0.0
    """Bytes of weights × tokens of a prompt in a second. 0: nobody knows."""

    def __post_init__(self) -> None:
        require(self.layer_bytes >= 0, "layer_bytes", self.layer_bytes, "0 or more")
        require(0 < self.read_bytes_s < math.inf, "read_bytes_s", self.read_bytes_s, "above 0, finite")
        require(0 <= self.compute_bytes_s < math.inf, "compute_bytes_s", self.compute_bytes_s, "0 or more, finite")

    def step_seconds(self, layer_bytes: int) -> float:
        """One token of a single sequence through one layer of so many bytes."""
        return layer_bytes / self.read_bytes_s

    def token_seconds(self, layer_bytes: int) -> float:
        """One token of a long prompt through one layer. 0 while nobody knows."""
        return layer_bytes / self.compute_bytes_s if self.compute_bytes_s else 0.0

    def counts_for(self, device: str, dtype: str, layer_bytes: int) -> bool:
        """Whether it says something of such layers, there, so."""
        return (self.device, self.dtype) == (device, dtype) and self.layer_bytes in (0, layer_bytes)

    def near(self, other: Speed) -> bool:
        """Whether the other says nothing new: the same kind of measurement, and not much else came of it."""
        same = (self.device, self.dtype, self.source, self.layer_bytes) == (
            other.device, other.dtype, other.source, other.layer_bytes,
        )  # fmt: skip
        pairs = (self.read_bytes_s, other.read_bytes_s), (self.compute_bytes_s, other.compute_bytes_s)
        return same and all(abs(old - new) <= RETELL * max(old, new) for old, new in pairs)

    def to_wire(self) -> dict[str, Any]:
        """As plain types, numbers with three digits."""
        return {
            "device": self.device,
            "dtype": self.dtype,
            "source": self.source.value,
            "layer_bytes": self.layer_bytes,
            "read_bytes_s": float(f"{self.read_bytes_s:.3g}"),
            "compute_bytes_s": float(f"{self.compute_bytes_s:.3g}"),
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """The inverse. Raises KeyError, TypeError or ValueError."""
        return cls(
            device=str(wire["device"]),
            dtype=str(wire["dtype"]),
            source=Source(wire["source"]),
            layer_bytes=int(wire["layer_bytes"]),
            read_bytes_s=float(wire["read_bytes_s"]),
            compute_bytes_s=float(wire["compute_bytes_s"]),
        )


RETELL = 0.1
"""A speed is told anew when it differs by so much, as a share."""


@dataclass(frozen=True, slots=True)
class Smoothed:
    """A mean that follows what changes, and that no single sample carries away."""

    value: float = 0.0
    count: int = 0

    SETTLED = 8
    """So many samples make a mean that an outlier is told by."""
    OUTLIER = 3.0
    """A sample counts for at most so many times the mean: what lasts is followed, what happens once is not."""
    WEIGHT = 0.02
    """Of the newest sample; half of what was is forgotten in 34."""

    def after(self, sample: float) -> Smoothed:
        """With one more sample."""
        if self.count >= Smoothed.SETTLED:
            sample = min(sample, Smoothed.OUTLIER * self.value)
        weight = max(1 / (self.count + 1), Smoothed.WEIGHT)
        return Smoothed(self.value + weight * (sample - self.value), self.count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """When the steps of a stage say enough to be believed. Seconds of any monotonic clock."""

    warm: int = 3
    """The first steps are not counted: memory is touched for the first time."""
    steps: int = 32
    """So many steps of few tokens must have been seen,"""
    span: float = 30.0
    """over so long: a moment says little of a machine that others use as well."""
    stale: float = 3600.0
    """What was seen last so long ago is not told any more."""


STEADY = Steady()
FEW = 16
"""A step of at most so many tokens decodes: it takes as long as reading the weights does, and a little more."""
MANY = 32
"""A step of at least so many tokens computes a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """What the steps of one stage took, smoothed."""

    layers: int
    head_layers: float = 0.0
    """What the output head costs to compute, in layers. 0 on a stage without it."""
    step: Smoothed = field(default_factory=Smoothed)
    """Seconds of a layer for one token."""
    token: Smoothed = field(default_factory=Smoothed)
    """Seconds of a layer for each token of a prompt."""
    seen: int = 0
    """Steps, all of them."""
    since: float = 0.0
    """When the first one that counts came."""
    last: float = 0.0
    """When the last one came."""

    def after(self, tokens: int, logits: int, seconds: float, now: float, steady: Steady = STEADY) -> StepTimes:
        """With a step of so many tokens, of which `logits` went through the head, that took so long."""
        if tokens < 1 or seconds <= 0:
            return self
        seen = replace(self, seen=self.seen + 1, last=now)
        if self.seen < steady.warm:
            return replace(seen, since=now)
        if tokens >= MANY:
            work = self.layers * tokens + self.head_layers * logits
            return replace(seen, token=self.token.after(seconds / work))
        if tokens > FEW:
            return seen
        whole = seconds / (self.layers + (self.head_layers if logits else 0.0))
        alone = max(whole / tokens, whole - (tokens - 1) * self.token.value)
        return replace(seen, step=self.step.after(alone))

    def speed(self, device: str, dtype: str, layer_bytes: int, now: float, steady: Steady = STEADY) -> Speed | None:
        """What it comes to. None: too little was seen, or too long ago."""
        span, age = self.last - self.since, now - self.last
        if self.step.count < steady.steps or span < steady.span or age > steady.stale:
            return None
        return Speed(
            device=device,
            dtype=dtype,
            source=Source.MEASURED,
            layer_bytes=layer_bytes,
            read_bytes_s=layer_bytes / self.step.value,
            compute_bytes_s=layer_bytes / self.token.value if self.token.count else 0.0,
        )

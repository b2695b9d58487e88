"""What is said between those who place the stages of a model and the actors that hold them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...grid.layers.speed import Speed
from ..shards.leg import Door, Pace
from .engines import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """What a stage is made of: see `StageSpec`."""

    model: str
    layers: range
    dtype: str
    device: str
    num_blocks: int
    block_size: int
    pace: Pace = field(default_factory=Pace)
    layer_bytes: int = 0
    head_layers: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a stage's donor is."""

    leaving: str = ""
    """Why it takes nothing new. Empty: it does."""
    closes_in: float | None = None
    """Seconds until its owner's window closes. None: it doesn't."""
    pid: int = 0
    speed: Speed | None = None
    """Of the stage, by its steps. None while they say too little."""
    links: Mapping[str, float] = field(default_factory=dict)
    """Donor id → seconds of a round trip, of those that come next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A loaded stage, and how its actor is asked from another worker."""

    key: str
    """Of the actor, in Dask."""
    stage: int
    """Which of the actor's stages it is."""
    worker: str
    """Dask's address of its worker."""
    donor_id: str
    """Empty on a worker without our plugin."""
    layers: range
    door: Door
    model: bytes
    """8 bytes that name the weights."""
    num_layers: int
    """Of the whole model."""
    bytes_held: int
    """Weights and pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadSpec:
    """What the engine over a chain is made of."""

    engine: EngineSpec
    """With a dtype that is none of ``auto``; its options are those of `TorchOptions`."""
    num_blocks: int
    """Pages, of every stage."""
    mend: float
    """Seconds that a break may last until the requests that live end with an error."""
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Stages that a chain lacks."""

    number: int
    """Each question has its own."""
    version: int
    """Of the arrangement that broke."""
    lost: tuple[int, ...]
    """Which of its stages don't answer."""
    why: str

    def to_wire(self) -> dict[str, Any]:
        """As plain types."""
        return {"number": self.number, "version": self.version, "lost": list(self.lost), "why": self.why}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Wanted:
        """The inverse. Raises KeyError, TypeError or ValueError."""
        lost = tuple(map(int, wire["lost"]))
        return cls(int(wire["number"]), int(wire["version"]), lost, str(wire["why"]))

"""What is wanted: a model, served by so many replicas of an engine; and what one replica is, for the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ...actors.serving.engines import EngineSpec
from ...grid import catalogue
from ...grid.jobs import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The desired state of one model. Raises ValueError on what can't be wanted."""

    model: str
    """The name under which it is served: a name of the catalogue, a Hugging Face id, a local folder."""
    source: str | None = None
    """Where the workers find the weights, if not under the model's name."""
    engine: str = "torch"
    """See `EngineSpec.engine`."""
    replicas: int = 1
    """Engines of this model, each on a donor of its own."""
    dtype: str = "auto"
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    """See `EngineSpec.options`."""
    type: str = "llm"
    """Job type that the donors must take."""
    region: str | None = None
    """Where the replicas should stand. None: no preference."""
    allow_cross_region: bool = True
    gpu_memory_gb: float | None = None
    """GPU memory that a replica needs, in GB. None: what the catalogue says on a GPU, else 0."""
    stages: int | None = None
    """Split each replica over so many donors, each with a part of the layers. 0: over as many as it takes. None: one
    donor holds all, unless `layers` says otherwise."""
    layers: tuple[tuple[int, int], ...] | None = None
    """The parts, given: first layer and the one after the last, of each. They must follow each other from layer 0."""

    def __post_init__(self) -> None:
        if self.replicas < 0:
            raise ValueError(f"replicas must be 0 or more, not {self.replicas}")
        self._check_split()
        self.spec()
        self.ask()

    @property
    def split(self) -> bool:
        """Whether a replica is several stages, on donors of their own."""
        return self.stages is not None or self.layers is not None

    def _check_split(self) -> None:
        if self.stages is not None and self.stages < 0:
            raise ValueError(f"stages must be 0 (as many as it takes) or more, not {self.stages}")
        if self.layers is not None:
            _check_layers(self.layers)
            if self.stages not in (None, len(self.layers)):
                raise ValueError(f"{len(self.layers)} ranges of layers are given, but stages is {self.stages}")
        if self.split and self.engine not in ("auto", "torch"):
            raise ValueError(f"only the torch engine can be split into stages, not {self.engine!r}")

    def spec(self) -> EngineSpec:
        """What each replica loads."""
        return EngineSpec(
            model=self.source or self.model,
            engine=self.engine,
            dtype=self.dtype,
            device=self.device,
            options=self.options,
        )

    def ask(self, excluded: frozenset[str] = frozenset()) -> Ask:
        """What placement must know of one replica."""
        listed = catalogue.find(self.model)
        needed = listed.gpu_memory_gb if listed is not None and self.device != "cpu" else 0.0
        return Ask(
            type=self.type,
            model=self.source or self.model,
            region=self.region,
            allow_cross_region=self.allow_cross_region,
            gpu_memory_gb=needed if self.gpu_memory_gb is None else self.gpu_memory_gb,
            excluded=excluded,
            deaths_allowed=0,
        )

    def stage_ask(self, excluded: frozenset[str], *, seconds: float, gpu_memory_gb: float = 0.0) -> Ask:
        """What placement must know of one stage. `seconds`: its donor's window must be open for so long."""
        needed = 0.0 if self.device == "cpu" else gpu_memory_gb
        return replace(self.ask(excluded), gpu_memory_gb=needed, seconds=seconds)


def _check_layers(layers: tuple[tuple[int, int], ...]) -> None:
    if not layers:
        raise ValueError("layers must name at least one range, such as (0, 12)")
    end = 0
    for start, stop in layers:
        if start != end:
            raise ValueError(f"layers {start} to {stop - 1} must begin at {end}: each range follows the one before")
        if stop <= start:
            raise ValueError(f"the range from layer {start} must end after it, not before layer {stop}")
        end = stop


class Phase(StrEnum):
    """Where a replica is in its life. There is no way back: a lost one is replaced by another."""

    PLACING = "placing"
    """Waits for a donor that may take it."""
    LOADING = "loading"
    READY = "ready"
    ENDED = "ended"
    """Lost, or it could not be loaded; still to be cleaned up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica, as the rules see it."""

    epoch: int
    """Its number; a later one is higher. What an earlier one says after it was replaced counts for nothing."""
    phase: Phase
    since: float
    """When it came into this phase: seconds of a monotonic clock."""
    donor_id: str = ""
    """Where it is. Empty while it is placed."""
    excluded: frozenset[str] = frozenset()
    """Donors that its placement avoids."""
    leaving: str = ""
    """Why its donor takes nothing new. Empty: it does."""
    leaving_since: float | None = None
    """When the donor first said so."""
    in_flight: int = 0
    """Requests that this service has on it."""
    stalled: float = 0.0
    """Seconds since the engine last told anything while it had work."""
    ready_at: float | None = None
    """When it became ready. None: it never did."""
    why: str = ""
    """Of a replica that ended: what happened. Of one that is placed: what it waits for."""
    others: frozenset[str] = frozenset()
    """Donors of its other stages, if it is split."""


@dataclass(frozen=True, slots=True)
class Held:
    """Layers of a model on a donor. A replica that is not split holds all of them."""

    donor_id: str
    """Empty while it is placed."""
    layers: range
    """Empty while nobody knows how many the model has."""
    phase: Phase
    replica: int
    """Its epoch."""
    layer_seconds: float | None = None
    """One token of a single session through one layer there. None: nobody asked."""
    speed: str = ""
    """Where that comes from: a `Source`. Empty with None."""

"""Deployments: what is wanted of a language model on the grid, and what those who serve it report. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from . import catalogue
from .suggest import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSpec:
    """The desired state of one model. `change` makes another one of it."""

    model: str
    """The name under which it is served: of the catalogue, a Hugging Face id, a folder."""
    source: str | None = None
    """Where the workers find the weights, if not under the model's name."""
    engine: str = "torch"
    dtype: str = "auto"
    device: str = "auto"
    replicas: int = 1
    stages: int | None = None
    """Split each replica over so many donors; 0: as many as it takes. None: not split, unless `layers` says so."""
    layers: tuple[tuple[int, int], ...] | None = None
    """The parts, given: first layer and the one after the last of each."""
    roles: tuple[str, ...] = ("hybrid",)
    """What its replicas do: `hybrid`, prefill and decode."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the engine. Plain JSON values."""
    region: str | None = None
    """Where it should stand. None: no preference."""
    allow_cross_region: bool = True
    gpu_memory_gb: float | None = None
    """Of a replica. None: what the catalogue says on a GPU, else 0."""

    def change(self, **changes: Any) -> Self:
        """The same with other fields; ranges and roles may come as lists. Raises TypeError for one it does not have."""
        return replace(self, **_tuples(changes))

    def to_wire(self) -> dict[str, Any]:
        """As plain JSON values."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        layers = None if self.layers is None else [list(part) for part in self.layers]
        return told | {"layers": layers, "roles": list(self.roles), "options": dict(self.options)}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`. What a later version wrote beside is ignored."""
        return cls(**_tuples({one.name: wire[one.name] for one in fields(cls) if one.name in wire}))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(values)
    if given.get("layers") is not None:
        given["layers"] = tuple((int(start), int(stop)) for start, stop in given["layers"])
    if "roles" in given:
        given["roles"] = tuple(given["roles"])
    return given


class DeploymentState(StrEnum):
    """How a deployment stands."""

    WAITING = "waiting"
    """Nobody has taken it up yet."""
    PLACING = "placing"
    """No replica serves yet."""
    PARTIAL = "partial"
    """Fewer replicas serve than are wanted."""
    READY = "ready"
    REFUSED = "refused"
    """It can't be served as it is wanted; `why` says what to change."""
    ENDING = "ending"
    """Not wanted any more, and not gone yet."""


@dataclass(frozen=True, slots=True)
class HeldLayers:
    """Layers of a model on a donor."""

    donor_id: str
    """Empty while a donor is looked for."""
    first: int
    stop: int
    """The one after the last. The same as `first` while nobody knows how many layers the model has."""
    phase: str
    """``placing``, ``loading``, ``ready`` …"""
    replica: int
    """Number of the replica, the same for all its stages."""
    layer_ms: float | None = None
    """One token of a single session through one layer there, in ms. None: nobody asked, it holds the whole model."""
    speed: str = ""
    """Where that comes from: ``measured``, ``probed`` or ``presumed``, see `grid.layers.speed`. Empty with None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReport:
    """What whoever serves a deployment says of it."""

    state: DeploymentState = DeploymentState.WAITING
    version: int = 0
    """Of the desired state that this is about."""
    ready: int = 0
    """Replicas that serve."""
    losses: int = 0
    """How often a stream lost its replica and went on elsewhere."""
    why: str = ""
    """Why it does not serve as it should, in words; empty when all is well."""
    num_layers: int | None = None
    """Of the model. None while nobody knows."""
    coverage: tuple[HeldLayers, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self) | {"state": self.state.value, "coverage": [asdict(held) for held in self.coverage]}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """The inverse of `to_wire`. What a later version wrote beside is ignored."""
        known = {one.name: wire[one.name] for one in fields(cls) if one.name in wire}
        coverage = tuple(_held(one) for one in wire.get("coverage", ()))
        return cls(**known | {"state": DeploymentState(wire["state"]), "coverage": coverage})


def _held(wire: Mapping[str, Any]) -> HeldLayers:
    return HeldLayers(**{one.name: wire[one.name] for one in fields(HeldLayers) if one.name in wire})


def missing_layers(coverage: Sequence[HeldLayers], num_layers: int | None) -> list[range]:
    """Which layers nobody serves, as ranges in order. Empty while nobody knows how many there are."""
    gaps: list[range] = []
    at = 0
    for held in sorted((one for one in coverage if one.phase == "ready"), key=lambda one: one.first):
        if held.first > at:
            gaps.append(range(at, held.first))
        at = max(at, held.stop)
    if num_layers is not None and at < num_layers:
        gaps.append(range(at, num_layers))
    return gaps


@dataclass(frozen=True, slots=True)
class StripRow:
    """One donor's line of the picture that shows who holds which layers."""

    donor_id: str
    """Empty: a donor is looked for."""
    phases: tuple[str, ...]
    """Of each layer, as in `HeldLayers.phase`; empty where the donor does not hold it. None at all while nobody knows
    how many layers the model has."""
    phase: str
    """Of what the donor holds first."""


def strip(coverage: Sequence[HeldLayers], num_layers: int | None) -> list[StripRow]:
    """Rows: donors, by the first layer that they hold; columns: layers. What serves hides what does not yet."""
    by_donor: dict[tuple[str, int], list[HeldLayers]] = {}
    for held in sorted(coverage, key=lambda one: (one.first, one.stop, one.replica)):
        search = held.replica if not held.donor_id else 0  # each search is a line of its own, each donor one
        by_donor.setdefault((held.donor_id, search), []).append(held)
    rows = []
    for (donor_id, _), parts in by_donor.items():
        phases = [""] * (num_layers or 0)
        for held in sorted(parts, key=lambda one: one.phase == "ready"):
            for layer in range(held.first, min(held.stop, len(phases))):
                phases[layer] = held.phase
        rows.append(StripRow(donor_id, tuple(phases), parts[0].phase))
    return rows


def check_model(name: str, source: str | None = None) -> str:
    """The one name of a language model that may be deployed; a Hugging Face id or a folder as it is written.

    Raises UnknownModel with the nearest name, and for a model that is none of a language model.
    """
    listed = catalogue.find(name)
    if listed is not None:
        if listed.type != "llm":
            raise catalogue.UnknownModel(f"{name!r} is no language model: it serves jobs of the type {listed.type}")
        return listed.id
    if source is None and "/" not in name and not name.startswith((".", "~")):
        known = [word for entry in catalogue.models("llm") for word in (entry.id, *entry.aliases)]
        raise catalogue.UnknownModel(
            f"{name!r} is not in the catalogue, and neither a Hugging Face id nor a folder.{did_you_mean(name, known)}"
        )
    return name

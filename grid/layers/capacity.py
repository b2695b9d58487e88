"""What a donor can hold of a model, and how many tokens a second it then carries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..regions import check_region
from .shape import ANY_TRAFFIC, LayerRange, ModelShape, Traffic, require

Assignment = Mapping[str, LayerRange]
"""Donor id → the layers it holds. A donor that is not in it holds none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDonor:
    """A donor as the holder of layers: what it offers to one model, measured on it."""

    id: str
    region: str
    """One of the seven region codes."""
    memory_bytes: int
    """For weights, keys and values: what its owner's limit leaves."""
    layer_rate: float
    """Layers × tokens a second at the batch that the traffic gives. 0: not to be used."""
    reliability: float = 1.0
    """Score 0-1: the share of its rate that is counted on. 0, e.g. with stale reports: not to be used."""
    up_bytes_s: float = math.inf
    down_bytes_s: float = math.inf
    layer_seconds: float | None = None
    """One token of a single sequence through one layer, in s. None: as if the measured batch were one token."""
    link_seconds: float = 0.0
    """One way from its region's net to the donor, in s."""

    def __post_init__(self) -> None:
        check_region(self.region)
        require(self.memory_bytes >= 0, "memory_bytes", self.memory_bytes, "0 or more")
        require(0 <= self.layer_rate < math.inf, "layer_rate", self.layer_rate, "0 or more, finite")
        require(0 <= self.reliability <= 1, "reliability", self.reliability, "0 to 1")
        for field in ("up_bytes_s", "down_bytes_s"):
            require(getattr(self, field) > 0, field, getattr(self, field), "above 0")
        for field in ("layer_seconds", "link_seconds"):
            require((getattr(self, field) or 0) >= 0, field, getattr(self, field), "0 or more")

    @property
    def rate(self) -> float:
        """Layers × tokens a second that are counted on."""
        return self.layer_rate * self.reliability

    @property
    def seconds_a_layer(self) -> float:
        """Of one token of a single sequence. Infinite for a donor without speed."""
        if self.layer_seconds is not None:
            return self.layer_seconds
        return 1.0 / self.layer_rate if self.layer_rate else math.inf


@dataclass(frozen=True, slots=True)
class Capacity:
    """The arithmetic of one model under its traffic: what fits, and what it gives. All other rules ask here."""

    model: ModelShape
    traffic: Traffic = ANY_TRAFFIC

    @property
    def bytes_a_layer(self) -> int:
        """Memory that a layer takes at least: its weights, and keys and values of the least number of sequences."""
        tokens = self.traffic.context_tokens * self.traffic.sequences
        return self.model.layer_bytes + math.ceil(self.model.kv_bytes * tokens)

    def least_bytes(self, layers: LayerRange) -> int:
        """Memory that a stage of these layers needs at least."""
        return len(layers) * self.bytes_a_layer + self.model.end_bytes(layers.start, layers.end)

    def fits(self, donor: LayerDonor, layers: LayerRange) -> bool:
        """Whether the donor can hold these layers and carries anything with them."""
        inside = layers.end <= self.model.layers
        return inside and donor.rate > 0 and self.least_bytes(layers) <= donor.memory_bytes

    def longest(self, donor: LayerDonor, start: int) -> int:
        """The most layers from `start` on that fit the donor. 0: not even one."""
        if donor.rate <= 0:
            return 0
        rest, per_layer = self.model.layers - start, self.bytes_a_layer
        if rest * per_layer + self.model.end_bytes(start, self.model.layers) <= donor.memory_bytes:
            return rest
        inner = (donor.memory_bytes - self.model.end_bytes(start, start)) // per_layer
        return max(0, min(inner, rest - 1))  # the last layer brings the output head, which doesn't fit

    def longest_to_end(self, donor: LayerDonor) -> int:
        """The most layers that fit the donor if the last layer is among them. 0: not even that one."""
        if self.longest(donor, 0) == self.model.layers:
            return self.model.layers
        head = self.model.end_bytes(1, self.model.layers)
        fit = (donor.memory_bytes - head) // self.bytes_a_layer if donor.rate > 0 else 0
        return max(0, min(fit, self.model.layers - 1))

    def longest_inside(self, donor: LayerDonor) -> int:
        """The most layers that fit the donor when neither end of the model is among them."""
        if donor.rate <= 0:
            return 0
        return max(0, min(donor.memory_bytes // self.bytes_a_layer, self.model.layers - 2))

    def sequences(self, donor: LayerDonor, layers: LayerRange) -> float:
        """Mean sequences whose keys and values find room beside the weights."""
        room = donor.memory_bytes - self.model.weight_bytes(layers)
        return max(0.0, room) / (len(layers) * self.model.kv_bytes * self.traffic.context_tokens)

    def tokens_per_second(self, donor: LayerDonor, layers: LayerRange) -> float:
        """What the donor carries through all of these layers: the least of compute, memory and network.

        Memory by Little's law: sequences that find room, each a token every `token_seconds`.
        """
        compute = donor.rate / self.model.work(layers)
        memory = self.sequences(donor, layers) / self.traffic.token_seconds
        network = min(donor.up_bytes_s, donor.down_bytes_s) / self.model.activation_bytes
        return min(compute, memory, network)

    def bound(self, donors: Iterable[LayerDonor]) -> float:
        """Tokens a second that no assignment to these donors can exceed: all their compute, nothing wasted."""
        return sum(donor.rate for donor in donors) / self.model.work(self.model.whole)

    def ample(self, donor: LayerDonor) -> int:
        """The most inner layers with which room for keys and values doesn't limit the donor; 1 if it always does."""
        most = self.longest_inside(donor)
        tokens = donor.rate * self.traffic.token_seconds * self.traffic.context_tokens
        unlimited = (donor.memory_bytes - tokens * self.model.kv_bytes) / self.model.layer_bytes
        return min(most, max(1, math.floor(unlimited)))


def by_id(donors: Sequence[LayerDonor]) -> dict[str, LayerDonor]:
    """The donors by id. Raises ValueError when two have the same."""
    known = {donor.id: donor for donor in donors}
    require(len(known) == len(donors), "donor ids", sorted(one.id for one in donors), "each id once")
    return known

"""A model as layers to be cut: their bytes, the traffic they must carry, and a range of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


def require(holds: bool, field: str, value: object, allowed: str) -> None:
    """Raise ValueError that names the field, the value and what is allowed, unless `holds`."""
    if not holds:
        raise ValueError(f"{field} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """The layers `start` to `end - 1` of a model: contiguous, never empty."""

    start: int
    """First layer, from 0."""
    end: int
    """The layer after the last one."""

    def __post_init__(self) -> None:
        require(0 <= self.start < self.end, "layer range", (self.start, self.end), "0 <= start < end")

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.start <= layer < self.end

    def __str__(self) -> str:
        """Both ends named, for people: `0-15` are sixteen layers."""
        return f"{self.start}-{self.end - 1}" if len(self) > 1 else str(self.start)

    def shared(self, other: LayerRange | None) -> int:
        """How many layers are in both."""
        return 0 if other is None else max(0, min(self.end, other.end) - max(self.start, other.start))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What cutting must know of a model. Sizes are those of the precision that it is served in."""

    layers: int
    """Transformer blocks."""
    layer_bytes: int
    """Weights of one block."""
    kv_bytes: int
    """Keys and values of one token in one layer."""
    activation_bytes: int
    """What one token sends from stage to stage, as encoded on the link."""
    embed_bytes: int = 0
    """Token embeddings: the stage with layer 0 holds them."""
    head_bytes: int = 0
    """Final norm and output head: the stage with the last layer holds them."""
    tied: bool = False
    """The output head is the embedding matrix: a stage with both ends holds it once."""
    head_layers: float = 0.0
    """What the output head costs to compute, in layers."""

    def __post_init__(self) -> None:
        require(self.layers >= 1, "layers", self.layers, "at least 1")
        for field in ("layer_bytes", "kv_bytes", "activation_bytes"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "at least 1")
        for field in ("embed_bytes", "head_bytes", "head_layers"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")

    @property
    def whole(self) -> LayerRange:
        """All layers."""
        return LayerRange(0, self.layers)

    def end_bytes(self, start: int, end: int) -> int:
        """What a range carries besides its blocks: the embedding, the output head, both or nothing."""
        embed = self.embed_bytes if start == 0 else 0
        head = self.head_bytes if end == self.layers else 0
        return max(embed, head) if self.tied and embed and head else embed + head

    def weight_bytes(self, layers: LayerRange) -> int:
        """What a stage of these layers loads."""
        return len(layers) * self.layer_bytes + self.end_bytes(layers.start, layers.end)

    def work(self, layers: LayerRange) -> float:
        """What a token costs on a stage of these layers, in layers."""
        return len(layers) + (self.head_layers if layers.end == self.layers else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a model's stages are to carry: it sets how much memory goes to keys and values, and what that is worth."""

    context_tokens: float = 2048.0
    """Mean number of tokens that a sequence holds."""
    token_seconds: float = 0.1
    """Mean time from one token of a sequence to its next, in s: over a chain the round trip of a step."""
    sequences: int = 1
    """Every stage must have room for the keys and values of so many mean sequences."""

    def __post_init__(self) -> None:
        require(self.context_tokens > 0, "context_tokens", self.context_tokens, "above 0")
        require(self.token_seconds > 0, "token_seconds", self.token_seconds, "above 0")
        require(self.sequences >= 1, "sequences", self.sequences, "at least 1")


ANY_TRAFFIC = Traffic()
"""What is assumed until something was measured."""

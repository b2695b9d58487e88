"""A model as the rules on layers see it, from its `config.json` alone: no torch, no weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...actors.models import ModelNotFound, resolve
from ...grid.layers.capacity import Capacity
from ...grid.layers.shape import ModelShape, Traffic
from .deployment import Deployment

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
_MIRRORED = 3
"""A stage on a CPU may keep dense copies of what its pages hold, up to twice as much."""
_KV_CACHE_GB, _BLOCK_SIZE, _MAX_SEQUENCES = 1.0, 16, 64
"""As in `TorchOptions`."""


class NoShape(Exception):
    """The model's configuration can't be had, or says nothing of its layers; the message says which."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What every stage of a deployment agrees on."""

    capacity: Capacity
    dtype: str
    num_blocks: int
    block_size: int

    @property
    def num_layers(self) -> int:
        """Of the whole model."""
        return self.capacity.model.layers


def configuration(model: str) -> dict[str, Any]:
    """A model's `config.json`: from a folder, a package or the hub's cache; only this file is fetched from the hub.

    Runs in the service and, where that doesn't have the model, on a worker. Raises ModelNotFound.
    """
    try:
        folder = resolve(model, fetch=False)
    except ModelNotFound as missing:
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(model, "config.json"))
        except Exception as error:
            raise ModelNotFound(f"{missing} Its config.json can't be fetched either: {error}") from error
    else:
        path = folder / "config.json"
    said: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return said


def local_layers(model: str) -> int | None:
    """How many layers a model has whose files are on this machine; nothing is fetched. None: it can't be known here."""
    try:
        said = json.loads((resolve(model, fetch=False) / "config.json").read_text("utf-8"))
        return int(said["num_hidden_layers"])
    except (ModelNotFound, OSError, ImportError, KeyError, TypeError, ValueError):
        return None


def sizes_of(deployment: Deployment, config: Mapping[str, Any]) -> Sizes:
    """What each stage needs, by the model's configuration and the deployment's options. Raises NoShape."""
    dtype = _dtype(deployment)
    try:
        shape, positions = _shape(config, ITEM_BYTES[dtype]), int(config["max_position_embeddings"])
    except (KeyError, TypeError, ValueError) as error:
        raise NoShape(f"the configuration of {deployment.model} doesn't tell its sizes: {error!r}") from error
    options = deployment.options
    block_size = int(options.get("block_size", _BLOCK_SIZE))
    blocks = options.get("num_blocks") or _blocks_in(options, shape, block_size, positions)
    mirrored = _MIRRORED if deployment.device == "cpu" else 1
    pages = Traffic(context_tokens=blocks * block_size * mirrored, token_seconds=1e-9)  # memory alone limits no rate
    return Sizes(Capacity(shape, pages), dtype, blocks, block_size)


def _dtype(deployment: Deployment) -> str:
    if deployment.dtype == "auto":  # until a donor has said what it would compute a whole model in
        return "float32" if deployment.device == "cpu" else "bfloat16"
    if deployment.dtype not in ITEM_BYTES:
        raise NoShape(f"dtype must be auto or one of {', '.join(ITEM_BYTES)}, not {deployment.dtype!r}")
    return deployment.dtype


def _shape(config: Mapping[str, Any], item: int) -> ModelShape:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    matrices = 2 * hidden * head_dim * (heads + kv_heads) + 3 * hidden * int(config["intermediate_size"])
    layer, matrix = matrices + 2 * hidden, int(config["vocab_size"]) * hidden
    return ModelShape(
        layers=int(config["num_hidden_layers"]),
        layer_bytes=layer * item,
        kv_bytes=2 * kv_heads * head_dim * item,
        activation_bytes=hidden * item,
        embed_bytes=matrix * item,
        head_bytes=matrix * item,
        tied=bool(config.get("tie_word_embeddings", False)),
        head_layers=matrix / layer,
    )


def _blocks_in(options: Mapping[str, Any], shape: ModelShape, block_size: int, positions: int) -> int:
    """Pages, as many as a whole model's engine would have."""
    fit = int(float(options.get("kv_cache_gb", _KV_CACHE_GB)) * 1e9 / (shape.kv_bytes * shape.layers * block_size))
    longest = min(options.get("max_context") or positions, positions)
    return max(1, min(fit, int(options.get("max_sequences", _MAX_SEQUENCES)) * math.ceil(longest / block_size)))

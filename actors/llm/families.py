"""Which checkpoints the stage can compute, and the numbers that it needs to do so, read from `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# What `rope_type` may be: the frequencies of the others depend on how long the sequence has become, so that cached
# keys would be wrong.
_FIXED_ROPES = frozenset({"default", "linear", "llama3", "yarn"})


class UnsupportedModel(Exception):
    """The stage can't compute this model. The message says why and what can."""


@dataclass(frozen=True, slots=True)
class Family:
    """In what the blocks of an architecture differ. All are pre-norm, gated SiLU, rotary, grouped-query."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """RMS norm of every head's query and key, before the rotation."""


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """A model's sizes and constants."""

    model_type: str
    family: Family
    num_layers: int
    hidden: int
    intermediate: int
    heads: int
    """Query heads; `heads / kv_heads` of them share a key and value head."""
    kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    tied: bool
    """The head is the embedding's matrix."""
    max_positions: int
    """The context the model was trained for. The stage doesn't enforce it: the sequencer does."""
    windows: tuple[int | None, ...]
    """For each layer: a position attends to so many last positions, itself included. None: to all before it."""
    inverse_frequencies: torch.Tensor
    """(head_dim / 2) fp32: of the rotary embedding, scaling applied."""
    rotary_scale: float
    """cos and sin are multiplied by it."""


def architecture(folder: Path) -> Architecture:
    """Read `folder/config.json`. Raises UnsupportedModel."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (KeyError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UnsupportedModel(
                f"{folder.name} brings code of its own, which our engine never runs; the engine transformers does "
                "(inference.engine) where the operator of the machine allows it (models.remote_code)"
            ) from error
        raise UnsupportedModel(f"{folder.name}: transformers can't read its config.json: {error}") from error
    family = _family(config)
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    frequencies, scale = _rotary(config, head_dim)
    return Architecture(
        model_type=config.model_type,
        family=family,
        num_layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        intermediate=int(config.intermediate_size),
        heads=heads,
        kv_heads=int(config.num_key_value_heads),
        head_dim=head_dim,
        vocab=int(config.vocab_size),
        norm_eps=float(config.rms_norm_eps),
        tied=bool(config.tie_word_embeddings),
        max_positions=int(config.max_position_embeddings),
        windows=_windows(config),
        inverse_frequencies=frequencies,
        rotary_scale=scale,
    )


def _family(config: Any) -> Family:
    attention_bias = bool(getattr(config, "attention_bias", False))
    known: Mapping[str, Family] = {
        "llama": Family(attention_bias, attention_bias, bool(getattr(config, "mlp_bias", False))),
        "mistral": Family(),
        "qwen2": Family(qkv_bias=True),
        "qwen3": Family(attention_bias, attention_bias, qk_norm=True),
    }
    family = known.get(config.model_type)
    if family is None:
        raise _unsupported(f"model type {config.model_type!r} is none of {', '.join(sorted(known))}")
    if config.hidden_act != "silu":
        raise _unsupported(f"its activation is {config.hidden_act!r}, not silu")
    if getattr(config, "quantization_config", None) is not None:
        raise _unsupported("its weights are quantised")
    return family


def _rotary(config: Any, head_dim: int) -> tuple[torch.Tensor, float]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = config.rope_parameters
    kind = parameters.get("rope_type", "default")
    if kind not in _FIXED_ROPES:
        raise _unsupported(f"its rotary embedding is {kind!r}, which is none of {', '.join(sorted(_FIXED_ROPES))}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported("only a part of each head is rotated")
    if kind == "default":
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        return 1.0 / (float(parameters["rope_theta"]) ** exponents), 1.0
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return frequencies.float(), float(scale)


def _windows(config: Any) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise _unsupported(f"it has layers of type {', '.join(sorted(unknown))}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _unsupported(why: str) -> UnsupportedModel:
    return UnsupportedModel(f"the engine 'torch' can't run this model: {why}. Use the engine 'transformers'.")

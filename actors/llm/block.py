"""One transformer block, fused: query, key and value in one matrix, gate and up in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from .families import Architecture
from .linear import Linear, linear

Attend = Callable[[int, torch.Tensor], torch.Tensor]
"""(layer, counted from the stage's first; rotated queries and keys, and values: (T, heads + 2 · kv_heads, D)) →
(T, heads · D)."""


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """The rotary embedding of a step's positions, shaped to be multiplied with (T, heads, D)."""

    cos: torch.Tensor  # (T, 1, D)
    sin: torch.Tensor  # (T, 1, D), the first half negated

    @classmethod
    def at(
        cls, positions: torch.Tensor, shape: Architecture, frequencies: torch.Tensor, dtype: torch.dtype
    ) -> Rotation:
        """`positions` (T) int64; `frequencies`: the shape's, on the positions' device.

        The angles are computed in fp32, as transformers does.
        """
        angles = positions[:, None].float() * frequencies  # (T, D / 2)
        cos, sin = (angles.cos() * shape.rotary_scale).to(dtype), (angles.sin() * shape.rotary_scale).to(dtype)
        return cls(torch.cat([cos, cos], -1)[:, None], torch.cat([-sin, sin], -1)[:, None])

    def __call__(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Rotate the heads `x` (T, heads, D) into `out`, which may be `x` itself."""
        torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin, out=out)


class Block:
    """Weights and forward pass of one layer."""

    def __init__(self, shape: Architecture, tensors: Mapping[str, torch.Tensor]) -> None:
        """`tensors`: by their names in the checkpoint without ``model.layers.N.``, in the dtype to compute in."""
        self.shape = shape
        self.input_norm = tensors["input_layernorm.weight"]
        self.mlp_norm = tensors["post_attention_layernorm.weight"]
        self.query_norm = tensors.get("self_attn.q_norm.weight")
        self.key_norm = tensors.get("self_attn.k_norm.weight")
        self.qkv = _fused(tensors, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.output = _fused(tensors, "self_attn.o_proj")
        self.gate_up = _fused(tensors, "mlp.gate_proj", "mlp.up_proj")
        self.down = _fused(tensors, "mlp.down_proj")

    @staticmethod
    def names(shape: Architecture) -> list[str]:
        """The tensors that a layer has in the checkpoint, without ``model.layers.N.``."""
        family = shape.family
        matrices = {
            "self_attn.q_proj": family.qkv_bias,
            "self_attn.k_proj": family.qkv_bias,
            "self_attn.v_proj": family.qkv_bias,
            "self_attn.o_proj": family.output_bias,
            "mlp.gate_proj": family.mlp_bias,
            "mlp.up_proj": family.mlp_bias,
            "mlp.down_proj": family.mlp_bias,
        }
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["self_attn.q_norm", "self_attn.k_norm"] if family.qk_norm else []
        biases = [f"{name}.bias" for name, has_bias in matrices.items() if has_bias]
        return [f"{name}.weight" for name in (*matrices, *norms)] + biases

    def forward(
        self, index: int, x: torch.Tensor, rotation: Rotation, attend: Attend, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """(T, H) → (T, H), or only `rows` of it: (R, H). `index`: the layer, counted from the stage's first."""
        shape = self.shape
        rotated = shape.heads + shape.kv_heads
        qkv = self.qkv(self._norm(x, self.input_norm)).view(len(x), rotated + shape.kv_heads, shape.head_dim)
        turning = qkv[:, :rotated]
        rotation(self._normed_heads(turning), out=turning)
        mixed = attend(index, qkv)
        if rows is not None:
            x, mixed = x[rows], mixed[rows]
        x = x + self.output(mixed)
        gate, up = self.gate_up(self._norm(x, self.mlp_norm)).chunk(2, -1)
        return x + self.down(functional.silu(gate).mul_(up))

    def _normed_heads(self, heads: torch.Tensor) -> torch.Tensor:
        if self.query_norm is None or self.key_norm is None:
            return heads
        query, key = heads[:, : self.shape.heads], heads[:, self.shape.heads :]
        return torch.cat([self._norm(query, self.query_norm), self._norm(key, self.key_norm)], 1)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self.shape.norm_eps)


def _fused(tensors: Mapping[str, torch.Tensor], *names: str) -> Linear:
    weights = [tensors[f"{name}.weight"] for name in names]
    biases = [tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors]
    return linear(_joined(weights), _joined(biases) if biases else None)


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

"""A matrix in the form that its device multiplies fastest."""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]
"""(T, in) → (T, out)."""

# oneDNN ties the layout of packed weights to a number of rows. The one for 16 is as fast as the right one for every
# number from 1 to 64, and not slower than plain weights above (measured: Zen 4, bf16 and fp32), so one copy does.
_PACKED_ROWS = 16


def linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """x → x @ weight.T + bias. `weight` is (out, in); where packing pays the result holds a packed copy, not it."""
    if not packs(weight):
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_ROWS)
    multiply = torch.ops.mkldnn._linear_pointwise
    return lambda x: multiply(x, packed, bias, "none", [], "")


def packs(weight: torch.Tensor) -> bool:
    """Whether oneDNN's packed layouts are faster than plain ones: 1.3 to 2.5 times on x86, in fp32 and bf16."""
    if weight.device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64") or not torch._C._has_mkldnn:
        return False
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32

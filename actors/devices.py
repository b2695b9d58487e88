"""Where a model computes, as all who load one choose and tell it; and lots that are drawn the same way each time."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def chosen_device(device: str) -> torch.device:
    """`device`: auto (the first GPU, else the CPU), cpu, cuda or cuda:n."""
    return torch.device(device if device != "auto" else "cuda:0" if torch.cuda.is_available() else "cpu")


def half_of(device: torch.device) -> torch.dtype:
    """The number format for weights that are usually run in 16 bits: bfloat16 where the GPU has it; fp32 on a CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def named_dtype(dtype: str, auto: torch.dtype) -> torch.dtype:
    """`dtype`: auto, float32, float16 or bfloat16. Raises ValueError for another."""
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in ("auto", *known):
        raise ValueError(f"dtype must be auto, {', '.join(known)}, not {dtype!r}")
    return known.get(dtype, auto)


def describe(device: torch.device) -> str:
    """The device for people, e.g. ``cuda:0 (NVIDIA A10)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)"


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that follow from the seed, and leave everybody else's alone."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

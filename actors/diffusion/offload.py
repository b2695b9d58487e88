"""Where the parts of an image generator are kept: all on the GPU, or in main memory until their turn comes. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Offload = Literal["none", "model", "sequential"]
"""``model``: a whole part at a time comes to the GPU; ``sequential``: a layer at a time, which is slow."""
MARGIN = 1.15
"""Weights take more than their bytes: buffers, and what an allocator can't use."""
WORK_BYTES = 2 * 1024**3
"""For what is computed: activations of one picture, and its way through the VAE."""


class NoRoom(MemoryError):
    """The GPU is too small for the model, and its owner allows no offloading."""


def chosen(parts: Collection[int], free: int, *, allowed: bool) -> Offload:
    """Where weights are kept. `parts`: bytes of each part; `free`: bytes of the GPU. Raises NoRoom."""
    if sum(parts) * MARGIN + WORK_BYTES <= free:
        return "none"
    if not allowed:
        needed = sum(parts) * MARGIN + WORK_BYTES
        raise NoRoom(
            f"the model takes about {needed / 1e9:.1f} GB of GPU memory and {free / 1e9:.1f} GB are free; "
            "set gpu.enable_cpu_offload, or name a smaller model"
        )
    return "model" if max(parts, default=0) * MARGIN + WORK_BYTES <= free else "sequential"

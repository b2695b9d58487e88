"""The pages of keys and values of a stage's layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from .families import Architecture
from .layout import PlanRefused
from .plan import Copy


class Pages:
    """`num_blocks` pages of `block_size` positions for each of a stage's layers, and one spare.

    The spare page, whose id is `num_blocks`, takes what padding writes: CUDA graphs run batches of fixed sizes.
    """

    def __init__(
        self,
        shape: Architecture,
        layers: range,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = layers
        self.num_blocks = num_blocks
        self.block_size = block_size
        # (layers, blocks, block_size, 2: keys and values, kv_heads, D); untouched memory of zeros costs nothing
        self.data = torch.zeros(
            (len(layers), num_blocks + 1, block_size, 2, shape.kv_heads, shape.head_dim), dtype=dtype, device=device
        )
        self._rows = self.data.view(len(layers), (num_blocks + 1) * block_size, -1)

    @property
    def bytes_per_block(self) -> int:
        """Of one page of all the stage's layers."""
        return self.data[:, 0].nbytes

    def write(self, layer: int, slots: torch.Tensor, kv: torch.Tensor) -> None:
        """Store (T, 2 · kv_heads, D), keys before values, at `slots` (T). `layer` counts from the stage's first."""
        self._rows[layer].index_copy_(0, slots, kv.flatten(1))

    def read(self, layer: int, blocks: torch.Tensor) -> torch.Tensor:
        """A copy of these blocks (N) of one layer, joined: (N · block_size, 2, kv_heads, D)."""
        return self.data[layer].index_select(0, blocks).flatten(0, 1)

    def copy(self, copies: Iterable[Copy]) -> None:
        """Copy pages of all layers, one after the other."""
        for copy in copies:
            self.data[:, copy.target] = self.data[:, copy.source]

    def export(self, blocks: Sequence[int], layers: range | None = None) -> dict[int, torch.Tensor]:
        """A copy of the pages of `layers` (default: all of the stage's), keyed by the layer's number in the model.

        Each (len(blocks), block_size, 2, kv_heads, D) on the CPU in the stage's dtype. Raises PlanRefused.
        """
        index = self._index(blocks)
        return {layer: self.data[self._local(layer)].index_select(0, index).cpu() for layer in layers or self.layers}

    def load(self, blocks: Sequence[int], data: Mapping[int, torch.Tensor]) -> None:
        """Overwrite pages with what an `export` gave, maybe of another stage and cut, for all or some of our layers.

        Raises PlanRefused, before anything has changed.
        """
        index = self._index(blocks)
        expected = (len(blocks), *self.data.shape[2:])
        local = {layer: self._local(layer) for layer in data}
        for layer, pages in data.items():
            if pages.shape != expected or pages.dtype is not self.data.dtype:
                raise PlanRefused(
                    f"pages of layer {layer} are {tuple(pages.shape)} {pages.dtype}, "
                    f"the stage's are {expected} {self.data.dtype}"
                )
        for layer, pages in data.items():
            self.data[local[layer]].index_copy_(0, index, pages.to(self.data.device))

    def _index(self, blocks: Sequence[int]) -> torch.Tensor:
        if wrong := [block for block in blocks if not 0 <= block < self.num_blocks]:
            raise PlanRefused(f"the stage has blocks 0 to {self.num_blocks - 1}, not {wrong}")
        return torch.tensor(blocks, dtype=torch.int64, device=self.data.device)

    def _local(self, layer: int) -> int:
        if layer not in self.layers:
            raise PlanRefused(f"layer {layer} isn't here: the stage has {self.layers.start} to {self.layers.stop - 1}")
        return layer - self.layers.start

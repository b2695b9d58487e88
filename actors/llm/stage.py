"""A stage: a contiguous range of a model's transformer blocks, with the pages of keys and values of these layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

from .attention import Attention, CpuAttention
from .block import Attend, Block, Rotation
from .families import Architecture, architecture
from .graphs import DecodeGraphs
from .kv import Pages
from .layout import PlanRefused, check, lay_out
from .linear import linear
from .mirror import Mirror
from .paged import PagedAttention
from .plan import GivenUp, Plan
from .weights import BadCheckpoint, Checkpoint

_EMBEDDING = "model.embed_tokens.weight"
_NORM = "model.norm.weight"
_HEAD = "lm_head.weight"


class Stage:
    """Computes its layers of what a plan says. Knows pages, not sequences; not for several threads at a time."""

    def __init__(
        self,
        folder: Path,
        layers: range,
        *,
        dtype: torch.dtype,
        device: str = "cpu",
        num_blocks: int,
        block_size: int = 16,
        attention: Literal["dense", "paged"] | None = None,
    ) -> None:
        """Load `layers` of the model in `folder`, and only them; the embedding with the first, norm and head with the
        last. `num_blocks` pages of `block_size` positions each are made for keys and values. `attention`: None takes
        what suits the device: on CUDA the pages themselves and graphs; on a CPU dense rows beside the pages, which may
        take up to twice as much memory again.

        Raises UnsupportedModel, BadCheckpoint, and ValueError for a range that is not the model's.
        """
        self.shape: Architecture = architecture(folder)
        if layers.step != 1 or not 0 <= layers.start < layers.stop <= self.shape.num_layers:
            raise ValueError(f"{layers} is no range of layers of a model that has {self.shape.num_layers}")
        self.layers, self.dtype, self.device = layers, dtype, torch.device(device)
        self.step = -1
        """The last step that was computed."""
        checkpoint = Checkpoint.open(folder)
        self._frequencies = self.shape.inverse_frequencies.to(self.device)
        self._blocks = [self._block(checkpoint, layer) for layer in layers]
        self._load_ends(checkpoint)
        self.bytes_loaded = checkpoint.bytes_loaded
        """Of weights, as stored in the checkpoint."""
        self.files_opened = sorted(checkpoint.files_opened)
        self.pages = Pages(self.shape, layers, num_blocks, block_size, dtype, self.device)
        self._attention: Attention
        self._graphs: DecodeGraphs | None = None
        if (attention or ("dense" if self.device.type == "cpu" else "paged")) == "dense":
            mirror = Mirror(self.pages, budget=2 * num_blocks * block_size)
            self._attention = CpuAttention(self.pages, self.shape, mirror)
        else:
            self._attention = paged = PagedAttention(self.pages, self.shape)
            self._graphs = DecodeGraphs(self._decode, paged, self.pages)

    @property
    def first(self) -> bool:
        """It starts from token ids."""
        return self.layers.start == 0

    @property
    def last(self) -> bool:
        """It ends in logits."""
        return self.layers.stop == self.shape.num_layers

    @torch.no_grad()
    def forward(
        self, plan: Plan, x: torch.Tensor | None = None, *, unless: Callable[[], bool] | None = None
    ) -> torch.Tensor:
        """Copy pages, then compute the plan's spans, packed one after the other into T = plan.tokens rows.

        `x`: (T, H), the stage before's answer; None on the first stage. `unless`: asked before each layer, where layers
        are computed one by one; it is over with GivenUp, pages copied, as soon as this says so. Returns (T, H) in the
        stage's dtype, or on the last stage (plan.logits, V) fp32. Raises PlanRefused, before anything has changed.
        """
        vocab = self.shape.vocab if self.first else None
        check(plan, after=self.step, num_blocks=self.pages.num_blocks, block_size=self.pages.block_size, vocab=vocab)
        self._check_input(plan, x)
        if plan.copies:
            self.pages.copy(plan.copies)
            self._attention.wrote(tuple(copy.target for copy in plan.copies))
        x = None if x is None else x.to(self.device)
        if self._graphs is not None and self._graphs.takes(plan, self.last):
            result = self._graphs.run(plan, x)
        else:
            layout = lay_out(plan, self.pages.block_size, self.device)
            attend = self._attention.begin(plan, layout)
            given = layout.tokens if x is None else x
            result = self._compute(given, layout.positions, attend, layout.logit_rows, unless)
        self.step = plan.step
        return result

    def export(self, blocks: Sequence[int], layers: range | None = None) -> dict[int, torch.Tensor]:
        """See Pages.export."""
        return self.pages.export(blocks, layers)

    @torch.no_grad()
    def load(self, blocks: Sequence[int], data: Mapping[int, torch.Tensor]) -> None:
        """See Pages.load."""
        self.pages.load(blocks, data)
        self._attention.wrote(tuple(blocks))

    def _decode(self, x: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        return self._compute(x, positions, attend, None)

    def _compute(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        rows: torch.Tensor | None,
        unless: Callable[[], bool] | None = None,
    ) -> torch.Tensor:
        """Token ids (T) or hidden states (T, H) → hidden states (T, H), or logits of `rows` (None: of all)."""
        hidden = x if self._embedding is None else functional.embedding(x, self._embedding)
        rotation = Rotation.at(positions, self.shape, self._frequencies, self.dtype)
        for index, block in enumerate(self._blocks):
            if unless is not None and unless():
                raise GivenUp
            # after the model's last attention only rows that have logits are of use
            final = self.last and index + 1 == len(self._blocks)
            hidden = block.forward(index, hidden, rotation, attend, rows if final else None)
        if self._head is None or self._norm is None:
            return hidden
        return self._head(functional.rms_norm(hidden, self._norm.shape, self._norm, self.shape.norm_eps)).float()

    def _check_input(self, plan: Plan, x: torch.Tensor | None) -> None:
        if (x is None) is not self.first:
            raise PlanRefused("the first stage takes token ids and no hidden states, every other takes hidden states")
        if x is not None and (x.shape != (plan.tokens, self.shape.hidden) or x.dtype is not self.dtype):
            expected = (plan.tokens, self.shape.hidden)
            raise PlanRefused(f"hidden states are {tuple(x.shape)} {x.dtype}, the plan's are {expected} {self.dtype}")

    def _block(self, checkpoint: Checkpoint, layer: int) -> Block:
        prefix = f"model.layers.{layer}."
        names = Block.names(self.shape)
        # old checkpoints carry a table that everybody computes
        present = {name for name in checkpoint.files if name.startswith(prefix) and "rotary_emb" not in name}
        if unknown := sorted(present - {prefix + name for name in names}):
            raise BadCheckpoint(f"{checkpoint.folder} has tensors that a {self.shape.model_type} has not: {unknown}")
        tensors = checkpoint.load(prefix + name for name in names)
        return Block(self.shape, {name: self._placed(tensors[prefix + name]) for name in names})

    def _load_ends(self, checkpoint: Checkpoint) -> None:
        head = _EMBEDDING if self.shape.tied else _HEAD
        wanted = {_EMBEDDING} if self.first else set()
        wanted |= {_NORM, head} if self.last else set()
        ends = {name: self._placed(tensor) for name, tensor in checkpoint.load(sorted(wanted)).items()}
        self._embedding = ends.get(_EMBEDDING) if self.first else None
        self._norm = ends.get(_NORM)
        self._head = linear(ends[head], None) if self.last else None

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)

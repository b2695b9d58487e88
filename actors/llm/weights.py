"""Single tensors out of a folder of safetensors files: what is not asked for is not read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class BadCheckpoint(Exception):
    """The folder's weights are not what its configuration promises. The message names the tensor or the file."""


@dataclass(slots=True)
class Checkpoint:
    """The tensors of a model on disk."""

    folder: Path
    files: dict[str, str]
    """Tensor name → file name."""
    bytes_loaded: int = 0
    """Of all tensors loaded so far, as stored."""
    files_opened: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the index of a sharded checkpoint, or the header of a single file. Raises BadCheckpoint."""
        index, single = folder / _INDEX, folder / _SINGLE
        if index.is_file():
            return cls(folder, dict(json.loads(index.read_text())["weight_map"]))
        if not single.is_file():
            raise BadCheckpoint(f"{folder} has neither {_INDEX} nor {_SINGLE}: only safetensors are read")
        try:
            with safe_open(single, framework="pt") as file:
                return cls(folder, dict.fromkeys(file.keys(), _SINGLE))
        except SafetensorError as error:
            raise BadCheckpoint(f"{single} is damaged: {error}") from error

    def load(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """These tensors, on the CPU, as stored. Raises BadCheckpoint for a name or a file that isn't there."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if name not in self.files:
                raise BadCheckpoint(f"{self.folder} has no tensor {name!r}: is it a complete causal language model?")
            by_file[self.files[name]].append(name)
        tensors: dict[str, torch.Tensor] = {}
        for file, wanted in by_file.items():
            tensors.update(self._load_from(file, wanted))
        self.bytes_loaded += sum(tensor.nbytes for tensor in tensors.values())
        return tensors

    def _load_from(self, name: str, wanted: list[str]) -> dict[str, torch.Tensor]:
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                self.files_opened.add(name)
                return {key: file.get_tensor(key) for key in wanted}
        except (SafetensorError, FileNotFoundError) as error:
            raise BadCheckpoint(f"{self.folder / name} is missing or damaged: {error}") from error

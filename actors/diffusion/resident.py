"""Image generators that stay: one per model in a process, loaded by whoever needs it first."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ...grid.config import load_settings
from ..resident import Residents, tell_donor

if TYPE_CHECKING:
    from .model import DiffusionModel

MAX_RESIDENT = 1
"""Models that one process keeps: one fills a GPU."""


def _load(model: str, *, dtype: str, device: str) -> DiffusionModel:
    from .model import DiffusionModel  # torch and diffusers take seconds to import: only who draws pays for it

    return DiffusionModel(model, dtype=dtype, device=device, cpu_offload=_may_offload())


_models: Residents[DiffusionModel] = Residents(
    _load,
    limit=MAX_RESIDENT,
    loaded=lambda model: tell_donor("loaded", model),
    unloaded=lambda model: tell_donor("unloaded", model),
)


def diffusion_model(model: str, *, dtype: str = "auto", device: str = "auto") -> DiffusionModel:
    """The resident image generator of this process, loaded at the first call. See `DiffusionModel`."""
    return _models.get(model, dtype=dtype, device=device)


@cache
def _may_offload() -> bool:
    """Whether the donor allows it (setting ``gpu.enable_cpu_offload``)."""
    return load_settings().settings.gpu.enable_cpu_offload

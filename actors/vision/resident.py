"""Models that see, and that stay: one per model in a process, loaded by whoever needs it first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..resident import Residents, tell_donor

if TYPE_CHECKING:
    from .model import VisionModel

MAX_RESIDENT = 1
"""Models that one process keeps: one fills a GPU."""


def _load(model: str, *, dtype: str, device: str) -> VisionModel:
    from .model import VisionModel  # torch takes seconds to import: only a process that computes pays for it

    return VisionModel(model, dtype=dtype, device=device)


_models: Residents[VisionModel] = Residents(
    _load,
    limit=MAX_RESIDENT,
    loaded=lambda model: tell_donor("loaded", model),
    unloaded=lambda model: tell_donor("unloaded", model),
)


def vision_model(model: str, *, dtype: str = "auto", device: str = "auto") -> VisionModel:
    """The resident vision-language model of this process, loaded at the first call. See `VisionModel`."""
    return _models.get(model, dtype=dtype, device=device)

"""Speech recognisers that stay: one per model and engine in a process, loaded by whoever needs it first."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ...grid.config import load_settings
from ..resident import Residents, tell_donor

if TYPE_CHECKING:
    from .speech import SpeechModel

ENGINES = ("transformers", "faster-whisper")
MAX_RESIDENT = 1
"""Models that one process keeps: a large one fills a small GPU."""


def _load(model: str, *, engine: str, dtype: str, device: str) -> SpeechModel:
    if engine == "transformers":
        from .model import WhisperModel  # torch takes seconds to import: only a process that computes pays for it

        return WhisperModel(model, dtype=dtype, device=device)
    if engine == "faster-whisper":
        from .faster import FasterWhisper

        return FasterWhisper(model, dtype=dtype, device=device)
    raise ValueError(f"speech engine {engine!r} is none of {', '.join(ENGINES)}")


_models: Residents[SpeechModel] = Residents(
    _load,
    limit=MAX_RESIDENT,
    loaded=lambda model: tell_donor("loaded", model),
    unloaded=lambda model: tell_donor("unloaded", model),
)


def whisper_model(model: str, *, engine: str | None = None, dtype: str = "auto", device: str = "auto") -> SpeechModel:
    """The resident recogniser of this process, loaded at the first call.

    `engine`: one of ENGINES; None: the donor's (setting ``engines.whisper.engine``). See `WhisperModel` for the others.
    Raises ModelNotFound, ValueError, EngineMissing.
    """
    return _models.get(model, engine=engine or _configured_engine(), dtype=dtype, device=device)


@cache
def _configured_engine() -> str:
    return load_settings().settings.engines.whisper.engine

"""Engines that a worker process loads before it takes work, so that nobody's first job waits for them."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from ...grid import catalogue
from ...grid.config import Settings
from ...grid.donors import Donor

logger = logging.getLogger(__name__)

VARIABLE: Final = "IDLEGRID_WARM"
"""JSON of job type → model, in the environment of a worker process."""
LOOK_EVERY = 0.1
_SMALL = frozenset({"embedding"})
"""Types whose usual model takes little memory and a few seconds, also without a GPU."""


def models_to_warm(settings: Settings, donor: Donor) -> dict[str, str]:
    """Job type → the model that the owner named for it, or its usual one where that fits this machine."""
    memory = donor.gpu_memory_gb * donor.limits.max_gpu_memory_percent / 100
    found = {}
    for name in sorted(donor.supported_types):
        named = getattr(getattr(settings.engines, name, None), "model_id", None)
        usual = catalogue.default_model(name, memory) if memory else catalogue.default_model(name)
        if named is not None:
            found[name] = catalogue.canonical(named, name)
        elif usual is not None and (memory or name in _SMALL):
            found[name] = usual.id
    return found


def to_variable(models: dict[str, str]) -> str:
    """The value of `VARIABLE`."""
    return json.dumps(models)


def warm(stopped: Callable[[], bool]) -> None:
    """Load what this process was told to, unless it is `stopped` meanwhile. What fails is told, and tried by a job."""
    told = os.environ.get(VARIABLE)
    if not told:
        return
    loading = threading.Thread(target=_load, args=(json.loads(told),), name="idlegrid-warm", daemon=True)
    loading.start()
    while loading.is_alive() and not stopped():
        loading.join(LOOK_EVERY)


def _load(models: dict[str, str]) -> None:
    from ...actors.models import DIFFUSERS, TRANSFORMERS, ModelNotFound, resolve

    for name, model in models.items():
        try:
            resolve(model, fetch=False, layout=DIFFUSERS if name == "image_gen" else TRANSFORMERS)
            _LOADERS[name](model)
            print(f"{name} is loaded: {model}", flush=True)
        except KeyError:
            continue
        except ModelNotFound:
            print(f"{name}: {model} is not on this machine yet, and is fetched for the first job", flush=True)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the first job says it to its client
            print(f"{name}: {model} could not be loaded: {type(error).__name__} {error}", flush=True)


def _embedding(model: str) -> None:
    from ...actors.resident import embedding_model

    embedding_model(model)


def _llm(model: str) -> None:
    from ...actors.llm.resident import llm_engine

    llm_engine(model)


def _whisper(model: str) -> None:
    from ...actors.whisper.resident import whisper_model

    whisper_model(model)


def _image_gen(model: str) -> None:
    from ...actors.diffusion.resident import diffusion_model

    diffusion_model(model)


def _vision(model: str) -> None:
    from ...actors.vision.resident import vision_model

    vision_model(model)


_LOADERS: dict[str, Callable[[str], None]] = {
    "embedding": _embedding,
    "image_gen": _image_gen,
    "llm": _llm,
    "vision": _vision,
    "whisper": _whisper,
}

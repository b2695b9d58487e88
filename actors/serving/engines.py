"""Which engine: its name, model and sizes as plain values, and how one is made of them on the worker that runs it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...grid.suggest import did_you_mean
from ..llm.engine_face import Engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What is to be loaded. Travels to the worker; nothing is imported before it is made there."""

    model: str
    """See `models.resolve`: on the worker, not where the spec was written."""
    engine: str = "auto"
    """A key of `ENGINES`, or ``package.module:function`` of a stranger's: called with the spec, gives an `Engine`."""
    dtype: str = "auto"
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where there is one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the engine takes: `TorchOptions`, the keywords of `TransformersEngine`, `VllmOptions`. With auto:
    what both of the first two take (`max_sequences`, `queue_limit`, `chunk`)."""

    def __post_init__(self) -> None:
        if self.engine not in ENGINES and ":" not in self.engine:
            raise ValueError(
                f"engine {self.engine!r} is none of {', '.join(ENGINES)}, and no package.module:function."
                f"{did_you_mean(self.engine, ENGINES)}"
            )


def make_engine(spec: EngineSpec) -> Engine:
    """The engine, not yet started. Imports what computes. Raises ImportError where that is not installed."""
    if (make := ENGINES.get(spec.engine)) is None:
        module, _, function = spec.engine.partition(":")
        make = getattr(importlib.import_module(module), function)
    return make(replace(spec, device=_device()) if spec.device == "auto" else spec)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def usual_dtype(device: str) -> str:
    """What ``auto`` means as the dtype of our engine on this machine. `device`: see `EngineSpec`."""
    from ..llm.torch_engine import TorchOptions, pick_dtype

    return pick_dtype(TorchOptions(device=_device() if device == "auto" else device))


def _torch(spec: EngineSpec) -> Engine:
    from ..llm.torch_engine import TorchEngine, TorchOptions

    return TorchEngine(spec.model, TorchOptions(dtype=spec.dtype, device=spec.device, **spec.options))


def _transformers(spec: EngineSpec) -> Engine:
    from ..llm.transformers_engine import TransformersEngine
    from ..models import resolve

    dtype = "float32" if spec.dtype == "auto" else spec.dtype
    return TransformersEngine(resolve(spec.model), model=spec.model, dtype=dtype, device=spec.device, **spec.options)


def _vllm(spec: EngineSpec) -> Engine:
    from ..llm.vllm_client import VllmOptions
    from ..llm.vllm_engine import VllmEngine

    return VllmEngine(spec.model, VllmOptions(dtype=spec.dtype, device=spec.device, **spec.options))


def _auto(spec: EngineSpec) -> Engine:
    """Ours if it knows the model's family, else transformers'. vLLM takes a whole GPU: who wants that says so."""
    from ..llm.families import UnsupportedModel, architecture
    from ..models import resolve

    try:
        architecture(resolve(spec.model))
    except UnsupportedModel as reason:
        logger.warning("%s is served by the transformers engine, which is slower: %s", spec.model, reason)
        return _transformers(spec)
    return _torch(spec)


ENGINES: Mapping[str, Callable[[EngineSpec], Engine]] = {
    "auto": _auto,
    "torch": _torch,
    "transformers": _transformers,
    "vllm": _vllm,
}
"""Name → how it is made."""

"""Which engine: its name, model and sizes as plain values, and how one is made of them on the worker that runs it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...grid.suggest import did_you_mean
from ..llm.engine_face import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What is to be loaded. Travels to the worker; nothing is imported before it is made there."""

    model: str
    """See `models.resolve`: on the worker, not where the spec was written."""
    engine: str = "torch"
    """A key of `ENGINES`, or ``package.module:function`` of a stranger's: called with the spec, gives an `Engine`."""
    dtype: str = "auto"
    device: str = "cpu"
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else the engine takes: `TorchOptions`, the keywords of `TransformersEngine`, …"""

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
    return make(spec)


def _torch(spec: EngineSpec) -> Engine:
    from ..llm.torch_engine import TorchEngine, TorchOptions

    return TorchEngine(spec.model, TorchOptions(dtype=spec.dtype, device=spec.device, **spec.options))


def _transformers(spec: EngineSpec) -> Engine:
    from ..llm.transformers_engine import TransformersEngine
    from ..models import resolve

    dtype = "float32" if spec.dtype == "auto" else spec.dtype
    return TransformersEngine(resolve(spec.model), model=spec.model, dtype=dtype, device=spec.device, **spec.options)


ENGINES: Mapping[str, Callable[[EngineSpec], Engine]] = {"torch": _torch, "transformers": _transformers}
"""Name → how it is made."""

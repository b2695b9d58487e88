"""The models that are known to work, as data (`catalogue.yaml`).

A model need not be listed here: any Hugging Face id or local folder may be named wherever a model is asked for. The
catalogue gives short names, memory needs and each type's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from .suggest import did_you_mean

DTYPES = ("fp32", "bf16", "fp8", "int4")
"""Widest first. `int4` stands for AWQ, GPTQ and bitsandbytes."""


class UnknownModel(LookupError):
    """The catalogue has no such model. The message names the nearest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRules:
    """How an image generator is used, and how far. The defaults are for models that are not listed."""

    steps: int | None = None
    """Where nobody says otherwise. None: as many as diffusers gives its pipeline."""
    guidance: float | None = None
    """Scale of the guidance. None: diffusers' own; 0 for models that were distilled to need none."""
    max_steps: int = 100
    max_pixels: int = 2048 * 2048
    """Width times height."""
    negative: bool = True
    """Whether a negative prompt has an effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model of the catalogue."""

    id: str
    """Hugging Face id; a bare name for a model of our own."""
    type: str
    """Job type that it serves."""
    dtype: str
    """Number format of the weights that it is usually run in; one of DTYPES."""
    memory_gb: Mapping[str, float]
    """Number format → GPU memory in GB: weights and a working set for one request. Estimated from parameter counts."""
    aliases: tuple[str, ...] = ()
    """Short names, all in lower case; matched without regard to case."""
    package: str | None = None
    """Installable Python package that carries the weights; its `MODEL_DIR` is their folder."""
    default: bool = False
    """Its type's default."""
    embedded: bool = False
    """Comes with idlegrid itself, for demos and tests without a hub. Taken when it is named, never because it fits."""
    proven: bool = False
    """Run by this project's own tests."""
    note: str = ""
    """What a user must know: licence, access, remote code."""
    images: ImageRules | None = None
    """Of an image generator."""

    @property
    def gpu_memory_gb(self) -> float:
        """GPU memory in GB in its usual number format."""
        return self.memory_gb[self.dtype]


@cache
def _catalogue() -> tuple[ModelEntry, ...]:
    text = files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return tuple(entry(fields) for fields in yaml.safe_load(text)["models"])


def entry(fields: Mapping[str, Any]) -> ModelEntry:
    """A catalogue entry from its YAML form. Raises ValueError on what cannot be one."""
    known = {name: value for name, value in fields.items() if name in ModelEntry.__slots__}
    unknown = sorted(set(fields) - set(known))
    memory = fields.get("memory_gb") or {}
    if unknown:
        raise ValueError(f"{fields.get('id')}: unknown field {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    if fields.get("dtype") not in memory or not set(memory) <= set(DTYPES) or min(memory.values()) <= 0:
        raise ValueError(f"{fields.get('id')}: memory_gb needs positive GB for {fields.get('dtype')!r}, of {DTYPES}")
    rules = ImageRules(**fields["images"]) if "images" in fields else None
    return ModelEntry(
        **known
        | {"memory_gb": MappingProxyType(dict(memory)), "aliases": tuple(fields.get("aliases", ())), "images": rules}
    )


def models(type: str | None = None) -> tuple[ModelEntry, ...]:  # noqa: A002 - the catalogue's word
    """The models of a job type, or all, in the order in which they are recommended."""
    return tuple(item for item in _catalogue() if type in (None, item.type))


def find(name: str) -> ModelEntry | None:
    """The model with this id or alias (case does not matter), or None: then it is a Hugging Face id or a folder."""
    return _by_name().get(name.lower())


def model(name: str) -> ModelEntry:
    """The model with this id or alias. Raises UnknownModel with the nearest name; use `find` where any id will do."""
    found = find(name)
    if found is None:
        raise UnknownModel(f"{name!r} is not in the catalogue.{did_you_mean(name, _by_name())}")
    return found


def default_model(type: str, gpu_memory_gb: float | None = None) -> ModelEntry | None:  # noqa: A002
    """The model to use when none is named.

    The type's default; when `gpu_memory_gb` is given and the default does not fit, the largest of the type that does.
    None: nothing of that type is listed, or nothing fits. Without a GPU give None: memory of a GPU is then no limit.
    """
    listed = models(type)
    usual = next((item for item in listed if item.default), None)
    if gpu_memory_gb is None or (usual is not None and usual.gpu_memory_gb <= gpu_memory_gb):
        return usual
    fitting = [item for item in listed if not item.embedded and item.gpu_memory_gb <= gpu_memory_gb]
    return max(fitting, key=lambda item: item.gpu_memory_gb, default=None)


def canonical(name: str | None, type: str) -> str:  # noqa: A002
    """The one name of a model: the id for a short name, the type's default for None, anything else as written.

    Raises UnknownModel when nothing was named and the type has no default.
    """
    listed = default_model(type) if name is None else find(name)
    if listed is not None:
        return listed.id
    if name is None:
        raise UnknownModel(f"the catalogue has no default for {type}; name a model")
    return name


@cache
def _by_name() -> Mapping[str, ModelEntry]:
    return {name.lower(): item for item in _catalogue() for name in (item.id, *item.aliases)}

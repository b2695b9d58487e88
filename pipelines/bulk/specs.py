"""What the specs of all bulk operators share: a model in some dtype, and names for the result columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model that computes alike on all workers: the part of an `OperatorSpec` that needs no more than that."""

    same_on_all_workers: ClassVar[tuple[str, ...]] = ("revision", "dtype")
    """Facts of its operator."""

    model: str
    """Folder, catalogue name or Hugging Face id."""
    dtype: str = "auto"
    """Of the weights. All workers use what the first one chose."""

    def pinned(self, facts: Mapping[str, Any]) -> Self:
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: facts[name] for name in self.same_on_all_workers}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixedSpec(ModelSpec):
    """Several result columns, whose names begin alike."""

    column_option: ClassVar[str] = "--prefix"
    wanted: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that results depend on, beside the model."""

    prefix: str = ""
    """Before the names of the result columns."""

    @property
    def options(self) -> Mapping[str, Any]:
        values = {name: getattr(self, name) for name in self.wanted}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return plain | {"column_prefix": self.prefix}


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaSpec(PrefixedSpec):
    """Files in the column, or beside it."""

    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For fsspec, where files are named by paths or URLs. Never written anywhere."""

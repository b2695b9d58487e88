"""FastAPI makes a pydantic validator of every parameter and answer of every route, 60 ms for one application, and the
tests make hundreds of applications. Equal parameters have equal validators: here they are made once a process."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

import pytest
from fastapi._compat import shared
from fastapi._compat.v2 import ModelField, asdict
from pydantic import TypeAdapter

_made: dict[Hashable, TypeAdapter[object]] = {}
_make = ModelField.__post_init__


def _find_or_make(field: ModelField) -> None:
    said = asdict(field.field_info)
    kind = said.pop("annotation")
    key = (kind, repr(kind), repr(said), repr(field.config))  # types by identity, what is said of them by its words
    if key not in _made:
        _make(field)
        _made[key] = field._type_adapter
    field._type_adapter = _made[key]


_look_again = shared.is_pydantic_v1_model_class
_look_once = cache(_look_again)


def _of_pydantic_v1(kind: object) -> bool:
    """FastAPI changes the filters of warnings and imports a module each time it asks."""
    return _look_once(kind) if isinstance(kind, type) else _look_again(kind)


@pytest.fixture(autouse=True, scope="session")
def shared_adapters() -> None:
    """For the rest of the process: applications are as FastAPI makes them, only sooner."""
    ModelField.__post_init__ = _find_or_make
    shared.is_pydantic_v1_model_class = _of_pydantic_v1

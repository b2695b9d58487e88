"""Result columns: what each one holds of an outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Column:
    """One result column."""

    name: str
    kind: Any
    """A `pyarrow.DataType`."""
    value: Callable[[Any], Any]
    """What it holds of an outcome."""


ANSWER = (
    Column("response", pa.string(), attrgetter("text")),
    Column("finish_reason", pa.string(), attrgetter("finish_reason")),
    Column("prompt_tokens", pa.int32(), attrgetter("prompt_tokens")),
    Column("completion_tokens", pa.int32(), attrgetter("completion_tokens")),
)
"""What is told of every answer of a language model."""


def fields(columns: Sequence[Column], prefix: str) -> list[Any]:
    """The `pyarrow.Field`s of the columns; `prefix` stands before their names."""
    return [pa.field(prefix + column.name, column.kind) for column in columns]


def arrays(columns: Sequence[Column], outcomes: Sequence[Any]) -> list[Any]:
    """One `pyarrow.Array` for each column; `outcomes` has a None for each row without one."""
    return [
        pa.array([None if one is None else column.value(one) for one in outcomes], column.kind) for column in columns
    ]

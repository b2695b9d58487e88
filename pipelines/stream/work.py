"""What a worker does with a batch of a stream. Runs as a Dask task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..bulk.operators import OperatorSpec, RowOperator
from ..bulk.place import trouble
from ..bulk.rows import Window
from ..bulk.window import compute, prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Everything that a worker needs for a batch."""

    spec: OperatorSpec
    same: Mapping[str, Any]
    """What this worker's operator must share with the one that the stream began with."""
    column: str
    error_column: str
    rows: Any
    """`pyarrow.RecordBatch` with this one column."""
    first: int
    """Number of the first record in its partition."""
    refused: Mapping[int, str]
    """Row → why it is not computed."""


def compute_batch(work: Work) -> Any:
    """A `pyarrow.RecordBatch` of the result columns and the error column. Raises WorkerTrouble."""
    operator = _operator(work)
    window = Window(work.first, (work.rows,))
    refused = {work.first + row: why for row, why in work.refused.items()}
    done = compute(prepare(window, work.column, operator, refused), operator)
    names = [*(field.name for field in operator.fields), work.error_column]
    return pa.RecordBatch.from_arrays([*done.columns, done.errors], names=names)


def probe_batch(work: Work) -> None:
    """Compute it and keep nothing: to find the record that kills."""
    compute_batch(work)


def _operator(work: Work) -> RowOperator:
    operator = work.spec.load()
    mine = work.spec.identity(operator.facts)
    other = [f"{name} {work.same[name]} → {mine[name]}" for name in mine if mine[name] != work.same[name]]
    if other:
        raise trouble(f"has another {work.spec.model} than the stream began with ({', '.join(other)})")
    return operator

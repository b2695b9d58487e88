"""How fast one worker is on rows of this job, and what model it really has. Runs as a Dask task, once a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cutting import Span
from .operators import OperatorSpec, RowOperator
from .place import unseen
from .rows import as_text, distinct, read_batches
from .source import SourceFile, Storage
from .window import Refused, judge_for

MEASURE_SECONDS = 0.3
_SAMPLE_ROWS = 128
_SAMPLE_PLACES = 4
_FALLBACK = ["A row of ordinary text, as long as a sentence usually is, to have something to measure."] * 16


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a worker found."""

    facts: Mapping[str, Any]
    """Of its operator."""
    schema: Any
    """List of the operator's fields."""
    rows_per_second: float
    """Of the operator alone, rows of this job's text. 0: it was not timed."""


def calibrate(spec: OperatorSpec, storage: Storage | None, files: Sequence[SourceFile], column: str) -> Calibration:
    """Load the operator and time it on a sample of the job's rows: about `MEASURE_SECONDS` once it is warm.

    Without `files`, or when the operator does not take some of the rows, on texts of its own. Without `storage` it is
    not timed.
    """
    operator = spec.load()
    if storage is None:
        return Calibration(operator.facts, list(operator.fields), 0.0)
    try:
        speed = _measure(operator, _sample(storage, files, column) or _fallback(operator))
    except FileNotFoundError as error:
        raise unseen(error.filename or error) from error
    except Exception:  # noqa: BLE001 - a bad row, or corrupt input: its unit will say so
        speed = _measure(operator, _fallback(operator))
    return Calibration(operator.facts, list(operator.fields), speed)


def warm(spec: OperatorSpec) -> None:
    """Load the operator, so that it is resident when the first unit comes."""
    spec.load()


def _fallback(operator: RowOperator) -> Sequence[Any]:
    """Rows of its own for an operator that reads none of this job's."""
    own = getattr(operator, "harmless", None)
    return _FALLBACK if own is None else [own] * len(_FALLBACK)


def _sample(storage: Storage, files: Sequence[SourceFile], column: str) -> list[Any]:
    """Texts, or files in bytes, from the first rows of up to four files spread over the job."""
    full = [file for file in files if file.rows]
    texts: list[Any] = []
    for file in full[:: max(1, len(full) // _SAMPLE_PLACES)][:_SAMPLE_PLACES]:
        for batch in read_batches(storage, file, Span(0, 0, min(_SAMPLE_ROWS, file.rows), 0.0)):
            array = as_text(batch.column(batch.schema.get_field_index(column)))
            judged = judge_for(array.type)
            found = (judged(value.as_buffer()) for value in distinct([array])[0])
            texts += [one for one in found if not isinstance(one, Refused)]
    return texts


def _measure(operator: RowOperator, texts: Sequence[Any]) -> float:
    """Rows per second, once warm."""
    told: Callable[[Sequence[Any]], float] | None = getattr(operator, "rows_per_second", None)
    if told is not None:
        return told(texts)
    operator.compute(operator.prepare(texts[:8]))
    begun, rows, size = time.monotonic(), 0, 32
    while (spent := time.monotonic() - begun) < MEASURE_SECONDS:
        chunk = [texts[(rows + index) % len(texts)] for index in range(size)]
        operator.compute(operator.prepare(chunk))
        rows += size
        size = min(2 * size, 512)
    return rows / spent

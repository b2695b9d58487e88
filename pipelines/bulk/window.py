"""One window of rows through an operator: every row gets its results or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...grid.failpoints import failpoint
from .operators import Results, Row, RowOperator
from .place import trouble
from .rows import Window, as_text, distinct
from .schema import holds_bytes

MAX_CHARACTERS = 1_000_000
"""A longer text is an error, not an input: a model sees a few thousand characters at most."""
NULL_TEXT = "null text"
HARMLESS = "ok"
"""A text that any operator can do something with."""
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Ready:
    """A window whose texts are prepared."""

    window: Window
    texts: Sequence[Any]
    """Distinct texts that can be computed; for an operator that works by row, a `Row` for each."""
    prepared: Any
    """What the operator made of them, or the exception that it raised."""
    text_of_row: Any
    """int32 array: for each row its place in `texts`; null: it has none."""
    errors: Mapping[int, str]
    """Row of the window → why it has no text to compute."""


@dataclass(frozen=True, slots=True)
class Done:
    """A window with its results."""

    window: Window
    columns: Sequence[Any]
    """One array a result field, one value a row."""
    errors: Any
    """string array, null where all is well."""
    truncated: int
    """Rows of whose text only the beginning was used."""


def prepare(
    window: Window, column: str, operator: RowOperator, killed: Mapping[int, str], *, first_row: int = 0
) -> Ready:
    """Find what can be computed. `killed`: row of the file → why it must not be touched again.

    `first_row`: rows of the input before this file.
    """
    arrays = [as_text(batch.column(batch.schema.get_field_index(column))) for batch in window.batches]
    values, indices = distinct(arrays, {row - window.start for row in killed})
    judged = judge_for(arrays[0].type)
    texts: list[str | bytes] = []
    place: list[int | None] = []
    refused: dict[int, str] = {}
    for index, value in enumerate(values):
        text = judged(value.as_buffer())
        if not isinstance(text, Refused):
            place.append(len(texts))
            texts.append(text)
        else:
            place.append(None)
            refused[index] = text.reason
    text_of_row = pa.array(place, pa.int32()).take(indices)
    errors = (
        {row: refused[index] for row, index in enumerate(indices.to_pylist()) if index in refused} if refused else {}
    )
    for row in pc.indices_nonzero(pc.is_null(indices)).to_pylist():
        errors[row] = killed.get(window.start + row, NULL_TEXT)
    items: Sequence[Any] = texts
    if works_by_row(operator):
        items, text_of_row = _rows(texts, text_of_row, first_row + window.start)
    return Ready(window, items, _prepare(operator, items), text_of_row, errors)


def works_by_row(operator: RowOperator) -> bool:
    """Whether two rows with the same text may have different results."""
    return bool(getattr(operator, "by_row", False))


def _rows(texts: Sequence[Any], text_of_row: Any, start: int) -> tuple[list[Row], Any]:
    """Each row that has a text, by itself, and its place among these."""
    found = [(row, index) for row, index in enumerate(text_of_row.to_pylist()) if index is not None]
    places = {row: place for place, (row, _) in enumerate(found)}
    rows = [Row(start + row, texts[index]) for row, index in found]
    return rows, pa.array([places.get(row) for row in range(len(text_of_row))], pa.int32())


@dataclass(frozen=True, slots=True)
class Refused:
    """A text that is not computed."""

    reason: str


def judge_for(kind: Any) -> Callable[[Any], str | bytes | Refused]:
    """How the values of a column of this type are read: files in bytes as they are, everything else as text."""
    return bytes if holds_bytes(kind) else judge


def judge(value: Any) -> str | Refused:
    """The text in a buffer of bytes, or why it is none."""
    raw = memoryview(value)
    if len(raw) > 4 * MAX_CHARACTERS:
        return Refused(f"text too long: {len(raw):,} bytes, the limit is {MAX_CHARACTERS:,} characters")
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError as error:
        return Refused(f"invalid UTF-8: {error.reason} at byte {error.start}")
    if len(text) > MAX_CHARACTERS:
        return Refused(f"text too long: {len(text):,} characters, the limit is {MAX_CHARACTERS:,}")
    return text


def _prepare(operator: RowOperator, texts: Sequence[Any]) -> Any:
    try:
        return operator.prepare(texts)
    except Exception as error:  # noqa: BLE001 - whatever it is, `compute` finds out which text causes it
        return error


def compute(ready: Ready, operator: RowOperator) -> Done:
    """Results for every row of a window. Raises WorkerTrouble when the operator fails whatever it is given."""
    results = _results(ready.texts, ready.prepared, operator)
    failpoint("bulk.unit.computed")
    rows, errors = ready.text_of_row, dict(ready.errors)
    if results.errors:
        bad = _rows_of(results.errors, rows)
        for row in pc.indices_nonzero(bad).to_pylist():
            errors[row] = results.errors[rows[row].as_py()]
        rows = pc.if_else(bad, pa.scalar(None, pa.int32()), rows)
    return Done(
        window=ready.window,
        columns=[column.take(rows) for column in results.columns],
        errors=pa.array([errors.get(row) for row in range(len(rows))], pa.string()),
        truncated=int(pc.sum(_rows_of(results.truncated, rows)).as_py() or 0),
    )


def _rows_of(texts: Collection[int], rows: Any) -> Any:
    """Boolean array: whether each row has one of these texts."""
    return pc.is_in(rows, value_set=pa.array(list(texts), pa.int32()))


def _results(texts: Sequence[Any], prepared: Any, operator: RowOperator) -> Results:
    if not texts:
        return Results([pa.nulls(0, field.type) for field in operator.fields])
    try:
        if isinstance(prepared, Exception):
            raise prepared
        return operator.compute(prepared)
    except Exception as error:  # noqa: BLE001 - a bad row must not end the job, whatever it raises
        _check_alive(operator, error)
        return _isolate(texts, operator, error)


def _check_alive(operator: RowOperator, error: Exception) -> None:
    """Raise unless the operator can do a harmless text: then the fault is not in the rows."""
    harmless = getattr(operator, "harmless", HARMLESS)
    try:
        operator.compute(operator.prepare([Row(0, harmless)] if works_by_row(operator) else [harmless]))
    except Exception as second:
        raise trouble(f"fails on any text: {_say(second)} (first: {_say(error)})") from second


def _isolate(texts: Sequence[Any], operator: RowOperator, error: Exception) -> Results:
    """The results of all texts but those that raise on their own, found by halving."""
    if len(texts) == 1:
        return Results([pa.nulls(1, field.type) for field in operator.fields], {0: _say(error)})
    middle = len(texts) // 2
    halves = [_attempt(part, operator) for part in (texts[:middle], texts[middle:])]
    return Results(
        columns=[pa.concat_arrays(pair) for pair in zip(*(half.columns for half in halves), strict=True)],
        errors={**halves[0].errors, **{middle + row: why for row, why in halves[1].errors.items()}},
        truncated=[*halves[0].truncated, *(middle + row for row in halves[1].truncated)],
    )


def _attempt(texts: Sequence[Any], operator: RowOperator) -> Results:
    try:
        return operator.compute(operator.prepare(texts))
    except Exception as error:  # noqa: BLE001 - see `_results`
        return _isolate(texts, operator, error)


def _say(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"

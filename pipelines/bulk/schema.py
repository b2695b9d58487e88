"""Columns in, columns out: is the text column there, do all files agree, what is added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from ...grid.suggest import did_you_mean
from .errors import InputError

_LISTED = 30


def is_text(kind: Any) -> bool:
    """Whether a column of this type holds text: string, large_string, string_view, or a dictionary of one."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def holds_bytes(kind: Any) -> bool:
    """Whether a column of this type holds files as bytes: binary of any size, or a dictionary of it."""
    if pa.types.is_dictionary(kind):
        return holds_bytes(kind.value_type)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def check_file_column(schema: Any, column: str, what: str) -> None:
    """Raise InputError unless `column` holds `what` as bytes, as structs with `bytes`, or as paths or URLs."""
    found = schema.get_all_field_indices(column)
    kind = schema.field(found[0]).type if len(found) == 1 else None
    if kind is not None and (holds_bytes(kind) or file_field(kind) is not None):
        return
    if kind is not None and not is_text(kind):
        raise InputError(f"column {column!r} holds {kind}; {what} are bytes, structs with bytes, or paths and URLs")
    check_text_column(schema, column)


def file_field(kind: Any) -> int | None:
    """Index of the field `bytes` in a struct that holds a file, as `datasets` of Hugging Face write it; else None."""
    if not pa.types.is_struct(kind) or (index := kind.get_field_index("bytes")) < 0:
        return None
    return index if holds_bytes(kind.field(index).type) else None


def check_text_column(schema: Any, column: str) -> None:
    """Raise InputError unless `column` is exactly one column of text."""
    found = schema.get_all_field_indices(column)
    if not found:
        listed = ", ".join(schema.names[:_LISTED]) + (" …" if len(schema.names) > _LISTED else "")
        raise InputError(f"there is no column {column!r}.{did_you_mean(column, schema.names)} Columns: {listed}")
    if len(found) > 1:
        raise InputError(f"{len(found)} columns are named {column!r}: rename one, it is not clear which is meant")
    kind = schema.field(found[0]).type
    if not is_text(kind):
        texts = [field.name for field in schema if is_text(field.type)]
        raise InputError(
            f"column {column!r} holds {kind}, not text (string, large_string, string_view or a dictionary of one). "
            f"Columns with text: {', '.join(texts[:_LISTED]) or 'none'}"
        )


def drift(first: Any, other: Any) -> str | None:
    """How `other` differs from `first` in names, order, types or nullability, or None. Metadata may differ."""
    if first.names != other.names:
        missing = [name for name in first.names if name not in other.names]
        extra = [name for name in other.names if name not in first.names]
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"adds {', '.join(extra)}"] * bool(extra)
        return " and ".join(parts) or f"has its columns in another order ({', '.join(other.names)})"
    for mine, theirs in zip(first, other, strict=True):
        if mine.type != theirs.type:
            return f"has {theirs.type} in column {mine.name!r}, not {mine.type}"
        if mine.nullable != theirs.nullable:
            return f"{'allows' if theirs.nullable else 'forbids'} nulls in column {mine.name!r}"
    return None


def check_no_drift(schemas: Iterable[tuple[str, Any]]) -> None:
    """Raise InputError when a file's schema differs from the first one's. `schemas`: (file name, schema)."""
    first: tuple[str, Any] | None = None
    for name, schema in schemas:
        if first is None:
            first = (name, schema)
        elif (difference := drift(first[1], schema)) is not None:
            raise InputError(
                f"the files do not agree: {name} {difference} (compared with {first[0]}). "
                "One output folder must have one schema: convert the files, or run one job for each kind"
            )


def output_schema(schema: Any, results: Sequence[Any], error_column: str, *, option: str = "--embedding-column") -> Any:
    """`schema` plus the result fields and the error column. Raises InputError when the source has one of the names.

    `option`: of the command line, by which the result columns get other names.
    """
    added = [*results, pa.field(error_column, pa.string())]
    names = [field.name for field in added]
    if len(set(names)) < len(names):
        raise InputError(f"result columns need different names, not {', '.join(names)}")
    for field in added:
        if field.name in schema.names:
            other = "--error-column" if field.name == error_column else option
            raise InputError(
                f"the source already has a column {field.name!r}: name the new one otherwise ({other} NAME, "
                f"{other[2:].replace('-', '_')}= in Python)"
            )
    for field in added:
        schema = schema.append(field)
    return schema

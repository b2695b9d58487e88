"""Reading a run of rows in bounded memory: small batches, dictionaries kept as dictionaries, windows of both."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .cutting import Span
from .errors import CorruptInput
from .place import trouble
from .schema import file_field
from .source import SourceFile, Storage

BATCH_ROWS = 256
BATCH_BYTES = 8 * 1024 * 1024
"""A batch is this small even if every value were distinct; what a dictionary makes of it is decided afterwards."""
WINDOW_BYTES = 32 * 1024 * 1024
FIRST_WINDOW_ROWS = 256
WINDOW_ROWS = 4096
"""Rows that are sorted by length together. The first windows are smaller, so that computing starts at once."""
_BUFFER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive rows that are computed together."""

    start: int
    """Row number in the file of its first row."""
    batches: tuple[Any, ...]
    """`pyarrow.RecordBatch`es in the file's schema, but large repeated values may still be dictionaries."""

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)


def read_windows(storage: Storage, file: SourceFile, span: Span) -> Iterator[Window]:
    """The rows of `span` in windows whose bounds depend on the data alone, so that a second attempt computes the same.

    Raises CorruptInput, naming file and row group, when a page can't be trusted or rows are missing.
    """
    start, rows, size, kept, limit = span.start, 0, 0, [], FIRST_WINDOW_ROWS
    for batch in read_batches(storage, file, span):
        while batch.num_rows:
            head = batch.slice(0, limit - rows)
            batch = batch.slice(head.num_rows)
            kept.append(head)
            rows += head.num_rows
            size += head.nbytes
            if rows >= limit or size >= WINDOW_BYTES:
                yield Window(start, tuple(kept))
                start, rows, size, kept, limit = start + rows, 0, 0, [], min(2 * limit, WINDOW_ROWS)
    if kept:
        yield Window(start, tuple(kept))
    if start + rows != span.stop:
        raise CorruptInput(
            f"{storage.url(file.path)}: rows {span.start}..{span.stop} were planned, row {start + rows} is the end"
        )


def read_batches(storage: Storage, file: SourceFile, span: Span) -> Iterator[Any]:
    """`pyarrow.RecordBatch`es of exactly the rows of `span`, decoded where that does not blow them up."""
    name = storage.url(file.path)
    with storage.open(file.path) as source:
        with _guard(f"{name}, footer"):
            metadata = pq.read_metadata(source)
            schema = metadata.schema.to_arrow_schema()
            reader = pq.ParquetFile(
                source,
                metadata=metadata,
                read_dictionary=_read_as_dictionary(metadata, schema),
                pre_buffer=False,
                buffer_size=_BUFFER,
                page_checksum_verification=True,
            )
        position = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            first, last = max(span.start, position), min(span.stop, position + rows)
            if first < last:
                where = f"{name}, row group {group}"
                yield from _read_group(reader, group, first - position, last - position, schema, where)
            position += rows


def _read_group(reader: Any, group: int, start: int, stop: int, schema: Any, where: str) -> Iterator[Any]:
    position = 0
    batches = reader.iter_batches(_batch_rows(reader.metadata.row_group(group)), [group], use_threads=False)
    while position < stop:
        with _guard(where):
            batch = next(batches, None)
        if batch is None:
            raise CorruptInput(f"{where}: row {stop} was planned, row {position} is the end")
        first, last = max(start - position, 0), min(stop - position, batch.num_rows)
        position += batch.num_rows
        if first < last:
            yield decode(batch.slice(first, last - first), schema, BATCH_BYTES)


@contextlib.contextmanager
def _guard(where: str) -> Iterator[None]:
    """Turns what pyarrow raises over bad bytes into CorruptInput, and what the system raises into WorkerTrouble."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise trouble(f"can't read {where}: {error}") from error
        raise CorruptInput(_corrupt(where, error)) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CorruptInput(_corrupt(where, error)) from error


def _corrupt(where: str, error: Exception) -> str:
    return (
        f"corrupt input in {where}: {error}. No row of it was used; put a good copy of the file (written the same way) "
        "in its place and run the same job again"
    )


def _batch_rows(group: Any) -> int:
    """How many rows of a row group to decode at once: by its honest, encoded size."""
    size = sum(group.column(i).total_uncompressed_size for i in range(group.num_columns))
    return int(min(max(BATCH_BYTES * group.num_rows // max(1, size), 1), BATCH_ROWS))


def _read_as_dictionary(metadata: Any, schema: Any) -> list[str]:
    """Paths of the leaves that are dictionary-encoded somewhere: decoding them could make gigabytes of kilobytes."""
    wanted = []
    for leaf in range(metadata.num_columns):
        column = metadata.schema.column(leaf)
        encoded = any(
            "RLE_DICTIONARY" in (found := metadata.row_group(i).column(leaf).encodings) or "PLAIN_DICTIONARY" in found
            for i in range(metadata.num_row_groups)
        )
        root = column.path.split(".")[0]
        if encoded and column.physical_type == "BYTE_ARRAY" and column.path != root:
            wanted += [column.path] * (root in schema.names and _plain_nested(schema.field(root).type))
        elif encoded and column.physical_type == "BYTE_ARRAY" and column.path in schema.names:
            wanted += [column.path] * _stringlike(schema.field(schema.names.index(column.path)).type)
    return wanted


def _stringlike(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _stringlike(kind.value_type)
    tests = (
        pa.types.is_string,
        pa.types.is_binary,
        pa.types.is_large_string,
        pa.types.is_large_binary,
        pa.types.is_string_view,
        pa.types.is_binary_view,
    )
    return any(test(kind) for test in tests)


def _plain_nested(kind: Any) -> bool:
    """A list of strings or binaries, or a struct of flat fields (a file and its path): what `decode_array` can undo."""
    if pa.types.is_struct(kind):
        return all(not pa.types.is_nested(field.type) and not pa.types.is_dictionary(field.type) for field in kind)
    return bool(pa.types.is_list(kind) and _stringlike(kind.value_type))


def decode(batch: Any, schema: Any, limit: int) -> Any:
    """`batch` in the types of `schema`, except for columns whose decoded values would take more than `limit` bytes."""
    columns = [
        column if column.type == field.type or decoded_bytes(column) > limit else decode_array(column, field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    fields = [field.with_type(column.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, schema.metadata))


def decode_array(array: Any, kind: Any) -> Any:
    """`array` as `kind`, dictionaries resolved; one that stays a dictionary keeps only the values that it uses."""
    if pa.types.is_dictionary(kind):
        return array.dictionary_decode().dictionary_encode().cast(kind)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.type != kind and pa.types.is_struct(kind):
        fields = [decode_array(array.field(index), field.type) for index, field in enumerate(kind)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    return array if array.type == kind else array.cast(kind)


def decoded_bytes(array: Any) -> int:
    """Bytes of `array` once its dictionaries are resolved."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not len(array.dictionary):
            return 0
        lengths = pc.binary_length(_as_binary(array.dictionary))
        return int(pc.sum(pc.cast(lengths.take(array.indices), pa.int64())).as_py() or 0) + 4 * len(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return decoded_bytes(array.flatten()) + 4 * len(array)
    if pa.types.is_struct(kind):
        return sum(decoded_bytes(array.field(index)) for index in range(kind.num_fields))
    return int(array.nbytes)


def _as_binary(array: Any) -> Any:
    return array if pa.types.is_binary(array.type) else array.cast(pa.large_binary())


def pieces(batch: Any, schema: Any, limit: int) -> Iterator[Any]:
    """`batch` fully decoded, in pieces of at most `limit` decoded bytes (or one row)."""
    if batch.num_rows > 1 and sum(decoded_bytes(column) for column in batch.columns) > limit:
        half = batch.num_rows // 2
        yield from pieces(batch.slice(0, half), schema, limit)
        yield from pieces(batch.slice(half), schema, limit)
    else:
        columns = [
            column if column.type == field.type else decode_array(column, field.type)
            for column, field in zip(batch.columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def as_text(array: Any) -> Any:
    """`array`, with lists and structs as JSON text; a conversation is often a list of structs. Of a file, its bytes."""
    if (place := file_field(array.type)) is not None:
        return pc.struct_field(array, [place])
    if not pa.types.is_nested(array.type):
        return array
    texts = [None if one is None else json.dumps(one, ensure_ascii=False, default=str) for one in array.to_pylist()]
    return pa.array(texts, pa.large_string())


def distinct(columns: Iterable[Any], left_out: Collection[int] = ()) -> tuple[Any, Any]:
    """Distinct values of several text arrays as one `large_binary` array, and for each row its index there (or null).

    A repeated text is computed once; a large one is held once. Rows `left_out` count as null.
    """
    chunks = []
    for column in columns:
        if pa.types.is_dictionary(column.type):
            values = column.dictionary.cast(pa.large_binary())
            chunks.append(pa.DictionaryArray.from_arrays(column.indices.cast(pa.int32()), values))
        else:
            chunks.append(column.cast(pa.large_binary()).dictionary_encode())
    whole = pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.large_binary())).unify_dictionaries()
    indices = pa.concat_arrays([chunk.indices for chunk in whole.chunks])
    values = whole.chunk(0).dictionary
    if left_out:
        kept = pa.array([row not in left_out for row in range(len(indices))])
        indices = pc.if_else(kept, indices, pa.scalar(None, pa.int32()))
    used = pc.unique(indices.drop_null())
    if len(used) < len(values):
        indices = pc.index_in(indices, value_set=used, skip_nulls=True)
        values = values.take(used)
    return values, indices

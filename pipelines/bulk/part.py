"""Writing one part, and reading back what a part says of itself."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...grid.failpoints import failpoint
from .errors import CorruptInput, TargetError
from .rows import decoded_bytes, pieces
from .source import read_footer
from .target import Target
from .window import Done

KEY = b"idlegrid"
"""Footer entry with a part's provenance, as JSON."""
ROW_GROUP_BYTES = 16 * 1024 * 1024
"""A row group is written when its decoded rows reach this: what the writer holds at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFacts:
    """What a finished part holds. Its footer says so, and the manifest repeats it."""

    job: str
    part: str
    rows: int
    errors: int
    """Rows whose error column is not null."""
    truncated: int
    """Rows of whose text the model took only the beginning: they reach its limit of tokens."""
    source: str
    """URL of the file that the rows come from."""
    source_footer: str
    """SHA-256 of that file's footer."""
    row_start: int
    row_stop: int
    seconds: float
    """From the start of the attempt to the end of its last row group."""
    facts: Mapping[str, Any]
    """Model, revision, dimension, dtype, versions …: what the operator says of itself."""
    options: Mapping[str, Any]
    attempt: str
    """Differs between two attempts at the same unit."""
    worker: str
    data_sha256: str
    """SHA-256 of every byte before the footer. Together with the footer's own hash it covers the whole file."""


class _HashingFile(io.RawIOBase):
    """A file that knows the SHA-256 of what was written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._size = 0
        self.wanted = True
        """False: what still comes is thrown away (pyarrow writes a footer even when a writer is given up)."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if not self.wanted:
            return len(view)
        self._hash.update(view)
        written = 0
        while written < len(view):
            written += self._file.write(view[written:]) or 0
        self._size += written
        failpoint("bulk.part.mid_write")
        return written

    def tell(self) -> int:
        return self._size

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()


class PartWriter:
    """Writes windows of results to a scratch file, a row group whenever enough has come together."""

    def __init__(self, path: Path, schema: Any) -> None:
        """`schema`: the output's; an earlier job's provenance in its metadata is not repeated."""
        self._schema = schema.with_metadata({k: v for k, v in (schema.metadata or {}).items() if k != KEY} or None)
        self._file = _HashingFile(path)
        failpoint("bulk.part.created")
        floats = _float_leaves(self._schema)
        others = [leaf for leaf in _leaves(self._schema) if leaf not in floats]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._file, "w"),
            self._schema,
            compression="zstd",
            use_byte_stream_split=floats,
            use_dictionary=others,
            write_statistics=others,
            write_page_checksum=True,
        )
        self._held: list[Any] = []
        self._held_bytes = 0
        self.rows = self.errors = self.truncated = 0

    def add(self, done: Done) -> None:
        """Append the rows of one window."""
        start = 0
        for batch in done.window.batches:
            extra = [column.slice(start, batch.num_rows) for column in (*done.columns, done.errors)]
            raw = pa.RecordBatch.from_arrays([*batch.columns, *extra], names=self._schema.names)
            for piece in pieces(raw, self._schema, ROW_GROUP_BYTES):
                self._hold(piece)
            start += batch.num_rows
        self.rows += start
        self.errors += start - done.errors.null_count
        self.truncated += done.truncated

    def _hold(self, piece: Any) -> None:
        size = sum(decoded_bytes(column) for column in piece.columns)
        if self._held_bytes + size > ROW_GROUP_BYTES:
            self._flush()
        self._held.append(piece)
        self._held_bytes += size

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema))
        self._held, self._held_bytes = [], 0

    def finish(self, **facts: Any) -> PartFacts:
        """Write what is left and the footer. `facts`: the fields of PartFacts that only the caller knows."""
        self._flush()
        counts = {"rows": self.rows, "errors": self.errors, "truncated": self.truncated}
        part = PartFacts(**{**facts, **counts, "data_sha256": self._file.hexdigest()})
        self._writer.add_key_value_metadata({KEY: json.dumps(asdict(part), sort_keys=True).encode()})
        self._writer.close()
        self._file.close()
        return part

    def abandon(self) -> None:
        """Close the file, finished or not, without caring for its content."""
        self._file.wanted = False
        self._writer.close()
        self._file.close()


def _leaves(schema: Any) -> list[str]:
    """Parquet paths of all leaf columns."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()
    parquet = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [parquet.column(index).path for index in range(len(parquet))]


def _float_leaves(schema: Any) -> list[str]:
    """Paths of the values of fixed-size lists of floats: vectors, which only BYTE_STREAM_SPLIT makes smaller."""
    vectors = {field.name for field in schema if pa.types.is_fixed_size_list(field.type)}
    vectors &= {field.name for field in schema if field.name in vectors and pa.types.is_floating(field.type.value_type)}
    return [leaf for leaf in _leaves(schema) if leaf.rsplit(".", 2)[0] in vectors]


def read_facts(target: Target, part: str) -> tuple[PartFacts, int, str]:
    """What a part's footer says, the file's size in bytes and its footer's SHA-256.

    Raises TargetError when it is no part of ours, or torn.
    """
    size = target.size(part)
    where = f"{target.url}/{part}"
    try:
        with target.open(part) as file:
            metadata, footer = read_footer(file, size, where)
    except CorruptInput as error:
        raise TargetError(f"{error}. Remove it and run the same job again") from error
    return parse_facts(metadata, where), size, footer


def parse_facts(metadata: Any, where: str) -> PartFacts:
    """The provenance in a part's footer. Raises TargetError when there is none or its count of rows is wrong."""
    raw = (metadata.metadata or {}).get(KEY)
    if raw is None:
        raise TargetError(f"{where} was not written by this program: move it away, or choose another target folder")
    facts = PartFacts(**json.loads(raw))
    if facts.rows != metadata.num_rows:
        raise TargetError(f"{where} says it has {facts.rows} rows and has {metadata.num_rows}: remove it and run again")
    return facts

"""A sink that is a folder of Parquet parts: each part is a commit, and its footer the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ...grid.failpoints import failpoint
from ..bulk.errors import BulkError
from ..bulk.source import read_footer
from ..bulk.target import Target, sync
from .done import Done
from .errors import Overtaken, StreamError
from .log import CommitLog, open_folder
from .sink import Commit, State, shown

KEY = b"idlegrid.stream"
"""Footer entry with a part's commit, as JSON."""


class ParquetSink:
    """Parts ``part-000000000001.parquet`` and so on, which any Parquet reader takes as one dataset.

    A part appears whole, under a name that only one process can take (`Target.publish`).
    """

    def __init__(self, target: str | Path | Target, storage_options: Mapping[str, Any] | None = None) -> None:
        """`target`: folder or fsspec URL. Raises StreamError for a URL of an unknown kind."""
        self._target = open_folder(target, storage_options)
        self._log = CommitLog(self._target, "part-", ".parquet", _read)
        self._schema: Any = None

    def open(self, stream: Mapping[str, Any], facts: Mapping[str, Any]) -> State:
        """See Sink."""
        return self._log.open(stream, facts)

    def commit(self, commit: Commit, rows: Any, done: Done) -> None:
        """See Sink."""
        self._check_schema(rows.schema)
        name = self._log.name(commit.number)
        document = json.dumps(commit.document(), sort_keys=True)
        with self._target.scratch(name) as scratch:
            pq.write_table(
                rows.replace_schema_metadata({KEY: document.encode()}),
                scratch,
                compression="zstd",
                write_page_checksum=True,
            )
            sync(scratch)
            failpoint("stream.part.written")
            if self._log.covered(commit) or not self._target.publish(scratch, name):
                self._log.check_mine(commit)
            elif self._log.covered(commit):  # this process was frozen between its look and its writing
                self._target.remove(name)
                raise Overtaken(
                    f"another process came further in {self._target.url}: {name} was written and taken away"
                )
        failpoint("stream.part.published")
        self._log.added(commit, rows.num_rows, done)

    def close(self) -> None:
        """Nothing stays open."""

    def _check_schema(self, schema: Any) -> None:
        if self._schema is None:
            self._schema = self._kept_schema() or schema
        if not schema.equals(self._schema):
            raise StreamError(
                f"these records don't have the columns of those in {self._target.url}: "
                f"{shown(schema)} is not {shown(self._schema)}. One stream has one schema"
            )

    def _kept_schema(self) -> Any:
        """Of the parts that are there; None when there are none."""
        names = self._log.names()
        if not names:
            return None
        with self._target.open(names[-1]) as file:
            return pq.read_schema(file).remove_metadata()


def _read(target: Target, name: str) -> tuple[Commit, int]:
    where = f"{target.url}/{name}"
    try:
        with target.open(name) as file:
            metadata, _ = read_footer(file, target.size(name), where)
        document = json.loads((metadata.metadata or {})[KEY])
    except (BulkError, KeyError, ValueError) as error:
        raise StreamError(f"{where} is no part of a stream, or damaged: {error!r}") from error
    return Commit.parse(document), int(metadata.num_rows)

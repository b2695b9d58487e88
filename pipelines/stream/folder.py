"""Sources that are watched folders: of Parquet files, row by row, or of other files, each one record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
from fsspec.core import url_to_fs

from ..bulk.cutting import Span
from ..bulk.errors import CorruptInput
from ..bulk.rows import BATCH_BYTES, pieces, read_batches
from ..bulk.schema import check_text_column, drift
from ..bulk.source import SUFFIXES, SourceFile, Storage, read_footer
from .absences import Absences
from .done import Done, Piece
from .errors import StreamError
from .source import Backlog, Batch

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds for which the folder may be away."""
REMEMBERED = 600.0
"""Seconds for which a file must be away until it is forgotten that it was read."""
POLL = 1.0
"""Seconds between two looks into the folder; with a slow file system as many as ten looks take."""
SETTLE = 10.0
"""Seconds that a file which can't be read may stay as it is until it counts as broken: it may still be written."""
MAX_FILE_BYTES = 512 * 1024 * 1024
"""A file that is one record may not be larger."""


class Broken(Exception):
    """A file can't be read as it is now."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file in the folder."""

    name: str
    """Below the folder, with slashes: its partition."""
    path: str
    size: int
    modified: float
    """Seconds of `time.time()`; 0 where the file system doesn't tell."""


class Reader(Protocol):
    """How a file becomes records."""

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def count(self, storage: Storage, file: Found) -> int:
        """How many records it has. Raises Broken, or StreamError for one that can never fit."""
        ...

    def read(self, storage: Storage, file: Found, start: int, stop: int) -> Iterator[Any]:
        """`pyarrow.RecordBatch`es of exactly these records. Raises Broken."""
        ...


class FolderSource:
    """Every file of a folder, the oldest first, once; then those that come.

    A file must come whole (moved in, or renamed), keep its name and never change. Names that begin with a dot or an
    underscore are left alone, and so are folders in it. Files may be removed once they are in the sink.
    """

    def __init__(
        self, url: str, reader: Reader, *, storage_options: Mapping[str, Any] | None = None, endless: bool = True
    ) -> None:
        """`url`: path or fsspec URL. `endless=False`: ends after the files that are there. Raises StreamError."""
        try:
            fs, self._root = url_to_fs(str(url), **(storage_options or {}))
        except (ValueError, ImportError) as error:
            raise StreamError(f"can't open the folder {url}: {error}") from error
        self._storage, self._reader, self._endless = Storage(fs), reader, endless
        self.broken: dict[str, str] = {}
        """File → why it can't be read: nothing of it comes, and it is looked at again when it changes."""
        self._stuck: dict[str, tuple[int, float, float]] = {}
        self._waiting: tuple[int, float | None] = (0, None)
        self._absent, self._left = Absences(REMEMBERED), Absences(REMEMBERED)
        self._list()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"kind": "folder", "url": self._storage.url(self._root), "reader": type(self._reader).__name__}

    def batches(self, done: Done, most: int, stopped: threading.Event) -> Iterator[Batch | None]:
        """See Source."""
        given, finished = Done(done.ranges()), set[str]()
        while not stopped.is_set():
            begun = time.monotonic()
            there = self._list_patiently(stopped)
            names = {file.name for file in there}
            finished &= names
            for name in self._left.for_long(given.partitions() - names, begun):
                given.forget(name)
            new = [file for file in there if file.name not in finished and self._worth_a_look(file)]
            for place, file in enumerate(new):
                self._waiting = (len(new) - place, file.modified)
                for batch in self._file(file, given, most, finished):
                    yield batch
                    if stopped.is_set():
                        return
            self._waiting = (0, None)
            if not self._endless and not self._unsettled(there):
                return
            yield None
            stopped.wait(max(POLL, 10 * (time.monotonic() - begun)) if not new else 0.0)

    def settled(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """Files are remembered for as long as they lie there: `gone` says which don't."""
        return ()

    def gone(self, done: Done) -> set[str]:
        """Partitions in `done` whose file has been away for long: they need not be remembered. A folder that is not
        mounted looks empty, and its files come back."""
        there = {file.name for file in self._list()}
        return self._absent.for_long(done.partitions() - there, time.monotonic())

    def backlog(self) -> Backlog:
        """In files, not in records: how many records a file has is known when it is opened."""
        files, oldest = self._waiting
        return Backlog(0 if not files else None, oldest or None)

    def close(self) -> None:
        """Nothing stays open."""

    def _list_patiently(self, stopped: threading.Event) -> list[Found]:
        """The same, while the file system is away for a while; nothing once `stopped`. Raises StreamError."""
        until = time.monotonic() + PATIENCE
        while not stopped.is_set():
            try:
                return self._list()
            except OSError as error:
                if time.monotonic() > until:
                    raise StreamError(
                        f"{self._storage.url(self._root)} can't be read for {PATIENCE:g} s: {error}"
                    ) from error
                logger.warning("%s can't be read now: %s", self._storage.url(self._root), error)
                stopped.wait(POLL)
        return []

    def _list(self) -> list[Found]:
        """The oldest first. Raises StreamError when there is no such folder."""
        self._storage.fs.invalidate_cache()
        try:
            listed = self._storage.fs.ls(self._root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            raise StreamError(f"there is no folder {self._storage.url(self._root)}: make it") from None
        found = [
            Found(PurePosixPath(one["name"]).name, one["name"], int(one["size"] or 0), _modified(one))
            for one in listed
            if one["type"] == "file"
        ]
        mine = [one for one in found if one.name.lower().endswith(self._reader.suffixes) and one.name[0] not in "._"]
        return sorted(mine, key=lambda one: (one.modified, one.name))

    def _file(self, file: Found, given: Done, most: int, finished: set[str]) -> Iterator[Batch]:
        """What is missing of one file; `finished` has its name when all of it was given."""
        try:
            count = self._reader.count(self._storage, file)
            for missing in list(given.missing(file.name, 0, count)):
                start = missing.start
                for rows in _cut(self._reader.read(self._storage, file, missing.start, missing.stop), most):
                    piece = Piece(file.name, start, start + rows.num_rows)
                    start = piece.stop
                    given.add(piece)
                    yield Batch(rows, (piece,), file.modified or time.time())
        except Broken as error:
            self._note(file, str(error))
        except FileNotFoundError:  # it was taken away between two looks
            if any(True for _ in given.missing(file.name, 0, 1)):
                return
            logger.warning("%s was taken away before all of it was read", self._storage.url(file.path))
        except OSError as error:
            self._note(file, str(error))
        else:
            self._stuck.pop(file.name, None)
            self.broken.pop(file.name, None)
            finished.add(file.name)

    def _worth_a_look(self, file: Found) -> bool:
        """A file that could not be read is read again when it has become another, or as long as it may be written."""
        known = self._stuck.get(file.name)
        return known is None or known[:2] != (file.size, file.modified) or file.name not in self.broken

    def _note(self, file: Found, why: str) -> None:
        known, now = self._stuck.get(file.name), time.monotonic()
        if known is None or known[:2] != (file.size, file.modified):
            self._stuck[file.name] = (file.size, file.modified, now)
        elif now - known[2] > SETTLE and file.name not in self.broken:
            self.broken[file.name] = why
            logger.error("%s is left out until it changes: %s", self._storage.url(file.path), why)

    def _unsettled(self, there: Sequence[Found]) -> bool:
        """Whether a file that can't be read may still be written."""
        return any(file.name in self._stuck and file.name not in self.broken for file in there)


def _cut(batches: Iterator[Any], most: int) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, most):
            yield batch.slice(start, most)


def _modified(info: Mapping[str, Any]) -> float:
    when: Any = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or info.get("created")
    return float(when.timestamp() if hasattr(when, "timestamp") else when or 0.0)


class ParquetRows:
    """Each row is a record. All files have the schema of the first one."""

    suffixes = SUFFIXES

    def __init__(self, column: str, *, check: Any = check_text_column) -> None:
        """`check`: raises InputError for a schema whose `column` can't be used."""
        self._column, self._check = column, check
        self._schema: Any = None
        self._open: tuple[Found, SourceFile] | None = None

    def count(self, storage: Storage, file: Found) -> int:
        """See Reader."""
        try:
            with storage.open(file.path) as opened:
                metadata, footer = read_footer(opened, file.size, storage.url(file.path))
        except (CorruptInput, pa.ArrowException) as error:
            raise Broken(str(error)) from error
        schema = metadata.schema.to_arrow_schema()
        if self._schema is None:
            self._check(schema, self._column)
            self._schema = schema
        elif (difference := drift(self._schema, schema)) is not None:
            raise Broken(f"{storage.url(file.path)} {difference}, compared with the first file of this stream")
        self._open = (file, SourceFile(path=file.path, size=file.size, stamp="", footer=footer, rows=metadata.num_rows))
        return int(metadata.num_rows)

    def read(self, storage: Storage, file: Found, start: int, stop: int) -> Iterator[Any]:
        """See Reader. Row groups before `start` are not read."""
        assert self._open is not None
        assert self._open[0] == file
        try:
            for batch in read_batches(storage, self._open[1], Span(0, start, stop, 0.0)):
                yield from pieces(batch, self._schema, BATCH_BYTES)
        except CorruptInput as error:
            raise Broken(str(error)) from error


class WholeFiles:
    """Each file is a record with two columns: ``path`` and its content."""

    def __init__(self, column: str, suffixes: tuple[str, ...], *, text: bool) -> None:
        """`column`: of the content, bytes or `text`. `suffixes`: with their dots, in small letters."""
        self._column, self.suffixes, self._text = column, suffixes, text

    def count(self, storage: Storage, file: Found) -> int:
        """See Reader."""
        if file.size > MAX_FILE_BYTES:
            raise Broken(f"{storage.url(file.path)} has {file.size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        if time.time() - file.modified < 1.0:
            raise Broken(f"{storage.url(file.path)} was changed within the last second")
        return 1

    def read(self, storage: Storage, file: Found, start: int, stop: int) -> Iterator[Any]:
        """See Reader."""
        with storage.fs.open(file.path, "rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) != file.size:
            raise Broken(f"{storage.url(file.path)} is still being written")
        column = pa.array([content], pa.binary())
        try:
            column = column.cast(pa.string()) if self._text else column
        except pa.ArrowInvalid:
            raise Broken(f"{storage.url(file.path)} is no text in UTF-8") from None
        yield pa.RecordBatch.from_pydict({"path": pa.array([storage.url(file.path)]), self._column: column})

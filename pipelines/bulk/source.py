"""The input of a bulk job: which files, how long, and proof that a file is still the one that was planned."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from .errors import CorruptInput, InputError

SUFFIXES = (".parquet", ".parq", ".pq")
"""What counts as a Parquet file inside a folder; a file or glob may be named as one likes."""
_TAIL = 64 * 1024
_THREADS = 16
_STAMPS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "created")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a source file, as far as planning cares."""

    rows: int
    text_bytes: int
    """Encoded, uncompressed bytes of the text column; a dictionary-encoded one may decode to far more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A source file as it was when the job was planned."""

    path: str
    """As its file system names it (no protocol)."""
    size: int
    """Bytes."""
    stamp: str
    """Its ETag or time of modification, whatever the file system knows."""
    footer: str
    """SHA-256 of the Parquet footer, hex. The footer holds the place, size and statistics of every column chunk."""
    rows: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What planning learned of one file."""

    file: SourceFile
    schema: Any
    """`pyarrow.Schema`, with metadata."""
    row_groups: tuple[RowGroup, ...]


@dataclass(frozen=True)
class Storage:
    """A file system that workers can open too (fsspec file systems pickle). Credentials stay inside of it."""

    fs: Any

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def open(self, path: str) -> Any:
        """A `pyarrow.NativeFile` for random reads."""
        filesystem = pafs.LocalFileSystem() if self.local else pafs.PyFileSystem(pafs.FSSpecHandler(self.fs))
        return filesystem.open_input_file(path)

    def stat(self, path: str) -> tuple[int, str]:
        """Size in bytes and stamp. Raises FileNotFoundError."""
        info = self.fs.info(path)
        stamp = next((f"{name}={info[name]}" for name in _STAMPS if info.get(name) is not None), "")
        return int(info["size"]), stamp

    def url(self, path: str) -> str:
        return path if self.local else str(self.fs.unstrip_protocol(path))


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function` of each item, in order: for calls that wait for storage."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def resolve(
    source: str | Path | Sequence[str | Path], storage_options: dict[str, Any] | None
) -> tuple[Storage, list[str], list[str]]:
    """The file system of `source` (file, folder, glob, URL, or a list of those), its folders and all its files.

    The files are in the order of their rows in the output. Raises InputError when nothing matches.
    """
    wanted = [source] if isinstance(source, (str, Path)) else list(source)
    if not wanted:
        raise InputError("the source is an empty list: name a Parquet file, a folder or a glob")
    storage: Storage | None = None
    folders: list[str] = []
    paths: list[str] = []
    for one in wanted:
        fs, path = _open(str(one), storage_options)
        if storage is not None and fs != storage.fs:
            raise InputError(f"all sources must lie on one file system; {one} is on another than {wanted[0]}")
        storage = Storage(fs)
        folders += [path] * bool(fs.isdir(path))
        paths += _matching(fs, path, str(one))
    assert storage is not None
    twice = next((path for path in paths if paths.count(path) > 1), None) if len(set(paths)) < len(paths) else None
    if twice is not None:
        raise InputError(f"{storage.url(twice)} is named twice: its rows would be doubled")
    return storage, folders, paths


def _open(url: str, storage_options: dict[str, Any] | None) -> tuple[Any, str]:
    try:
        fs, path = url_to_fs(str(Path(url).expanduser()) if "://" not in url else url, **(storage_options or {}))
    except (ValueError, ImportError) as error:
        protocols = ", ".join(sorted(fsspec.available_protocols())[:8])
        raise InputError(f"can't open {url}: {error} (known protocols: {protocols} …)") from error
    return fs, path


def _matching(fs: Any, path: str, named: str) -> list[str]:
    if any(sign in path for sign in "*?[") and not fs.exists(path):
        found = sorted(one for one in fs.glob(path) if fs.isfile(one))
        if not found:
            raise InputError(f"no file matches {named}")
        return found
    if fs.isdir(path):
        return _in_folder(fs, path, named)
    if not fs.exists(path):
        raise InputError(f"{named} does not exist: name a Parquet file, a folder of them or a glob")
    return [path]


def _in_folder(fs: Any, folder: str, named: str) -> list[str]:
    found = []
    for path in sorted(fs.find(folder)):
        inside = PurePosixPath(path[len(folder) :].lstrip("/")).parts
        if path.lower().endswith(SUFFIXES) and not any(part[0] in "._" for part in inside):
            found.append(path)
            if any("=" in part for part in inside[:-1]):
                raise InputError(
                    f"{named} is partitioned by folder names ({'/'.join(inside[:-1])}): those columns are not in the "
                    f"files and would be lost. If that is fine, name the files: {named.rstrip('/')}/**/*.parquet"
                )
    if not found:
        raise InputError(f"the folder {named} has no Parquet file (*{', *'.join(SUFFIXES)})")
    return found


def read_footer(file: Any, size: int, name: str) -> tuple[Any, str]:
    """The `pyarrow.parquet.FileMetaData` of an open file of `size` bytes, and the SHA-256 of its footer's bytes.

    Reads the end of the file only. Raises CorruptInput when that is not the end of a Parquet file.
    """
    if size == 0:
        raise CorruptInput(f"{name} is empty (0 bytes), not even a Parquet header: remove it, or write it again")
    tail = _read_at(file, max(0, size - _TAIL), size)
    if size < 12 or tail[-4:] != b"PAR1":
        raise CorruptInput(_not_parquet(name, size, tail[-4:]))
    length = struct.unpack("<I", tail[-8:-4])[0] + 8
    if length > size - 4:
        raise CorruptInput(f"{name} is torn: its footer claims {length} bytes, the file has {size}")
    footer = tail[-length:] if length <= len(tail) else _read_at(file, size - length, size)
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
    except (OSError, pa.ArrowException) as error:
        raise CorruptInput(f"the footer of {name} can't be read: {error}") from error
    return metadata, hashlib.sha256(footer).hexdigest()


def _read_at(file: Any, start: int, stop: int) -> bytes:
    return bytes(file.read_at(stop - start, start))


def _not_parquet(name: str, size: int, magic: bytes) -> str:
    if magic == b"PARE":
        return f"{name} has an encrypted footer: encrypted Parquet can't be read here"
    return f"{name} ({size} bytes) does not end like a Parquet file: torn while it was written, or no Parquet at all"


def survey(storage: Storage, path: str, column: str) -> Survey:
    """Size, stamp, footer, schema and row groups of one file. Raises CorruptInput."""
    size, stamp = storage.stat(path)
    with storage.open(path) as opened:
        metadata, footer = read_footer(opened, size, storage.url(path))
    leaf = next((i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column), None)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    row_groups = tuple(
        RowGroup(group.num_rows, 0 if leaf is None else group.column(leaf).total_uncompressed_size) for group in groups
    )
    file = SourceFile(path=path, size=size, stamp=stamp, footer=footer, rows=metadata.num_rows)
    return Survey(file, metadata.schema.to_arrow_schema(), row_groups)


def check_unchanged(storage: Storage, file: SourceFile) -> None:
    """Raise CorruptInput unless the file is the planned one: same size, stamp and footer.

    A FileNotFoundError passes through: the caller knows whether this machine should see the file.
    """
    storage.fs.invalidate_cache()
    size, stamp = storage.stat(file.path)
    name = storage.url(file.path)
    with storage.open(file.path) as opened:
        same = (size, stamp) == (file.size, file.stamp) and read_footer(opened, size, name)[1] == file.footer
    if not same:
        raise CorruptInput(
            f"{name} changed while the job ran (planned: {file.size} bytes, {file.stamp}; "
            f"now: {size} bytes, {stamp}). Nothing of it was mixed in. Run the job again, into a new target if the "
            "content differs"
        )

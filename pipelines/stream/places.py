"""What people name as source and sink: paths, URLs, iterators, functions."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bulk.operators import OperatorSpec
from ..bulk.schema import check_text_column
from .callback import CallbackSink
from .errors import StreamError
from .folder import FolderSource, ParquetRows, WholeFiles
from .iterator import IteratorSource
from .kinds import TEXT_TYPES
from .parquet_sink import ParquetSink
from .redis_streams import SCHEMES, RedisSink, RedisSource
from .sink import Sink
from .source import Source


def open_source(
    source: Any,
    spec: OperatorSpec,
    *,
    column: str,
    name: str = "records",
    files: Sequence[str] | None = None,
    endless: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """A folder's path or URL, a Redis stream's URL, an iterator, or a Source. Raises StreamError.

    `name`: of an iterator's records. `files`: suffixes of files that are one record each; None: the files are Parquet.
    """
    if isinstance(source, str | Path):
        url = str(source)
        if url.startswith(SCHEMES):
            return RedisSource(url, column=column, endless=endless, text=spec.job_type in TEXT_TYPES)
        if files:
            suffixes = tuple(f".{one.lower().lstrip('.')}" for one in files)
            whole = WholeFiles(column, suffixes, text=spec.job_type in TEXT_TYPES)
            return FolderSource(url, whole, storage_options=storage_options, endless=endless)
        reader = ParquetRows(column, check=getattr(spec, "check_column", check_text_column))
        return FolderSource(url, reader, storage_options=storage_options, endless=endless)
    if isinstance(source, Iterable | AsyncIterable):
        return IteratorSource(source, column=column, name=name)
    if hasattr(source, "batches"):
        return source  # type: ignore[no-any-return]
    raise StreamError(f"a {type(source).__name__} is no source: give a folder, a Redis URL or an iterator")


def open_sink(
    into: Any, *, checkpoint: str | Path | None = None, storage_options: Mapping[str, Any] | None = None
) -> Sink | None:
    """A folder's path or URL, a Redis stream's URL, a function, or a Sink; None stays None. Raises StreamError.

    `checkpoint`: where it is kept how far a function came.
    """
    if callable(into):
        return CallbackSink(into, checkpoint)
    if checkpoint is not None:
        raise StreamError("a checkpoint is for functions: folders and Redis streams keep theirs in themselves")
    if isinstance(into, str | Path):
        return RedisSink(str(into)) if str(into).startswith(SCHEMES) else ParquetSink(into, storage_options)
    if into is None or hasattr(into, "commit"):
        return into  # type: ignore[no-any-return]
    raise StreamError(f"a {type(into).__name__} is no sink: give a folder, a Redis URL or a function")

"""The part of `Grid` that works on endless sources."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from distributed import Client

from ..pipelines.bulk.watch import Patience
from ..pipelines.stream import Stream, StreamStatus
from ..pipelines.stream.flow import StreamOptions
from ..pipelines.stream.kinds import spec_for
from ..pipelines.stream.places import open_sink, open_source


class GridStream:
    """What a `Grid` can do with endless sources. Its host gives `client` and `_make_way`."""

    client: Client
    _make_way: Callable[[], None]
    _salt: str

    def stream(
        self,
        source: str | Path | Iterable[Any] | AsyncIterable[Any],
        type: str,  # noqa: A002 - the field's word
        *,
        column: str = "text",
        into: str | Path | Callable[[list[dict[str, Any]]], Any] | None = None,
        model: str | None = None,
        checkpoint: str | Path | None = None,
        files: Sequence[str] | None = None,
        name: str = "records",
        ordered: bool = True,
        endless: bool = True,
        batch_records: int = 64,
        in_flight: int | None = None,
        commit_records: int = 4096,
        commit_seconds: float = 1.0,
        storage_options: dict[str, Any] | None = None,
        patience: Patience | None = None,
        listen: Callable[[StreamStatus], None] | None = None,
        **options: Any,
    ) -> Stream:
        """Compute every record of an endless source, with bounded work under way. Begins at once.

        `source`: a folder of Parquet files to be watched (or of other `files`, by their suffixes), the URL of a Redis
        stream (``redis://host/0?stream=NAME&group=G``), or any iterator of texts, bytes or mappings, synchronous or not
        (`name`: its name in checkpoints). `column` is what is computed. `type`: the job type; `options` are those of
        its bulk job.

        `into`: a folder of Parquet parts, a Redis stream's URL, or a function (with a folder `checkpoint`). None:
        iterate over the stream. A restart with the same source and sink goes on where it was: each record is in a
        folder or a Redis stream exactly once; a function may see records twice, with the same ``record``.

        `ordered=False` gives results as they are done. `endless=False` ends when the source has nothing more.
        `in_flight`: batches of at most `batch_records` that are read and not in the sink; results go there when there
        are `commit_records` of them, or every `commit_seconds`. Raises StreamError for what can't work.
        """
        if type == "llm":
            options = {"cache_salt": self._salt, **options}
        spec = spec_for(type, model, options)
        chosen = StreamOptions(
            column=column,
            ordered=ordered,
            batch_records=batch_records,
            in_flight=in_flight,
            commit_records=commit_records,
            commit_seconds=commit_seconds,
            patience=patience or Patience(worker=None),
        )
        reading = open_source(
            source, spec, column=column, name=name, files=files, endless=endless, storage_options=storage_options
        )
        writing = open_sink(into, checkpoint=checkpoint, storage_options=storage_options)
        self._make_way()
        return Stream(self.client, reading, spec, writing, chosen, listen=listen)

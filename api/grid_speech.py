"""The part of `Grid` that hears recordings: transcripts as futures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distributed import Client, Future

from ..actors.whisper.speech import Wish
from ..actors.whisper.tasks import transcribe_each, transcribe_one
from ..grid import catalogue
from ..grid.jobs import Ask
from ..pipelines.bulk import BulkReport, transcribe_parquet

Recording = bytes | Path | str
"""A sound file's content, or its path on this machine."""


class GridSpeech:
    """What a `Grid` can do with recordings. Its host gives `client`, `_annotated`, `_submit` and `_make_way`."""

    client: Client
    _annotated: Callable[..., Any]
    _submit: Callable[..., Future]
    _make_way: Callable[..., None]

    def transcribe(self, audio: Recording, *, model: str | None = None, **wish: Any) -> Future:
        """A future of a `Transcript`: what is said in a recording, with its language, duration and segments.

        `wish`: see `Wish`, e.g. ``language="de", words=True``. Raises OSError for a file that can't be read, TypeError
        for another word; the future fails with MediaError for what is no recording.
        """
        name, asked = catalogue.canonical(model, "whisper"), Wish(**wish)
        with self._annotated(Ask(type="whisper", model=name)):
            return self._submit(transcribe_one, name, content_of(audio), asked, name="transcribe")

    def map_transcribe(
        self, audio: Iterable[Recording], *, model: str | None = None, batch_size: int = 8, **wish: Any
    ) -> list[Future]:
        """Futures of lists of `Transcript`, one per `batch_size` recordings, in order; a batch is heard together.

        One that is no recording fails its batch. For whole datasets use `transcribe_parquet`.
        """
        if isinstance(audio, bytes | str | Path):
            raise TypeError("audio must be a list of recordings; for one use `transcribe`")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        name, asked = catalogue.canonical(model, "whisper"), Wish(**wish)
        files = [content_of(one) for one in audio]
        with self._annotated(Ask(type="whisper", model=name)):
            return [
                self._submit(transcribe_each, name, files[first : first + batch_size], asked, name="transcribe")
                for first in range(0, len(files), batch_size)
            ]

    def transcribe_parquet(self, source: str, target: str, *, audio_column: str, **options: Any) -> BulkReport:
        """Transcribe every recording of a Parquet dataset into a new dataset; resumes where it was stopped.

        See `idlegrid.pipelines.bulk.transcribe_parquet` for the options and what is guaranteed.
        """
        self._make_way()
        return transcribe_parquet(self.client, source, target, audio_column=audio_column, **options)


def content_of(file: Recording) -> bytes:
    """A file, or the one at this path. Raises OSError."""
    return file if isinstance(file, bytes) else Path(file).read_bytes()

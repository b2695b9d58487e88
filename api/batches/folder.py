"""Where the content of files lies: a folder that every API process sees."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...grid.failpoints import failpoint

CHUNK = 1024 * 1024
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
INPUT = "input"
"""A batch's input, among its parts."""
ABANDONED = 3_600.0
"""Seconds after which a file to which nothing more was written is removed, if nobody finished it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A whole file under its final name."""

    bytes: int
    sha256: str


class TooLarge(Exception):
    """The content is larger than allowed."""


class FileFolder:
    """Files appear whole, synced, and never change. Blocking: call it from threads."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> None:
        """Make the folder, for its owner alone."""
        for folder in (self.root, self._scratch, self.root / "parts"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear_abandoned(self) -> None:
        """Remove what nobody finished: whoever wrote it was killed."""
        with os.scandir(self._scratch) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > ABANDONED:
                        Path(entry.path).unlink()

    def path(self, file_id: str) -> Path:
        """Where the content of a file lies. Raises ValueError for what is no id."""
        if not _ID.fullmatch(file_id):
            raise ValueError("that is no id of a file")
        return self.root / file_id

    def write(
        self,
        file_id: str,
        chunks: Iterable[bytes],
        *,
        most: int | None = None,
        before: Callable[[Written], None] = lambda written: None,
    ) -> Written:
        """Write a file; one of that name is replaced. Raises TooLarge beyond `most` bytes, OSError.

        `before` is called when all of it is on the disk, before it appears; what it raises leaves nothing behind. Who
        makes the file known there leaves no content that nobody knows, wherever the process dies.
        """
        return self._write(self.path(file_id), chunks, most, before)

    def delete(self, file_id: str) -> None:
        """Remove a file; one that is not there is fine."""
        self.path(file_id).unlink(missing_ok=True)

    # ---- what belongs to a batch

    def pin(self, batch_id: str, file_id: str) -> None:
        """Keep a file's content for a batch, until its end, whoever deletes the file. Raises FileNotFoundError."""
        folder = self._parts(batch_id)
        folder.mkdir(mode=0o700, exist_ok=True)
        source, pinned = self.path(file_id), folder / INPUT
        if pinned.exists():
            return
        try:
            pinned.hardlink_to(source)
        except FileNotFoundError:
            raise
        except FileExistsError:
            return  # somebody else was faster
        except OSError:  # no hard links here
            with source.open("rb") as file:
                self._write(pinned, reader(file.read), None)
        _sync_folder(folder)

    def input_lines(self, batch_id: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The lines of a batch's input from byte `start` on, to `stop`. Raises FileNotFoundError."""
        with (self._parts(batch_id) / INPUT).open("rb") as file:
            file.seek(start)
            left = None if stop is None else stop - start
            for line in file:
                yield line
                if left is not None:
                    left -= len(line)
                    if left <= 0:
                        return

    def write_part(self, batch_id: str, part: int, fence: int, kind: str, content: bytes) -> None:
        """Keep what was computed of a part. `kind`: ``out`` or ``err``. Raises FileNotFoundError once it is cleared."""
        folder = self._parts(batch_id)
        self._write(folder / f"{part:06d}.{fence}.{kind}", [content], None)

    def join_parts(self, batch_id: str, parts: Iterable[tuple[int, int]], kind: str) -> Iterator[bytes]:
        """The content of parts (number, fence) in their order: for `write`. Raises FileNotFoundError."""
        for part, fence in parts:
            path = self._parts(batch_id) / f"{part:06d}.{fence}.{kind}"
            if path.stat().st_size:
                yield from _chunks(path)

    def batches(self) -> list[tuple[str, float]]:
        """Batches of which something lies here, each with the seconds since something was added."""
        now, found = time.time(), []
        with os.scandir(self.root / "parts") as entries:
            for entry in (one for one in entries if _ID.fullmatch(one.name)):
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, now - entry.stat().st_mtime))
        return found

    def clear(self, batch_id: str, keep: Collection[str] = ()) -> None:
        """Remove what was kept for a batch that has ended, but for its files `keep`."""
        for path in self.root.glob(f"{output_name(batch_id)}*"):
            if path.name not in keep:
                path.unlink(missing_ok=True)
        folder = self._parts(batch_id)
        with contextlib.suppress(FileNotFoundError):
            for path in list(folder.iterdir()):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody who lost the batch still wrote: the next look clears it
                folder.rmdir()

    def _parts(self, batch_id: str) -> Path:
        if not _ID.fullmatch(batch_id):
            raise ValueError("that is no id of a batch")
        return self.root / "parts" / batch_id

    @property
    def _scratch(self) -> Path:
        return self.root / ".tmp"

    def _write(
        self,
        final: Path,
        chunks: Iterable[bytes],
        most: int | None,
        before: Callable[[Written], None] = lambda written: None,
    ) -> Written:
        scratch = self._scratch / uuid.uuid4().hex
        size, digest = 0, hashlib.sha256()
        try:
            with scratch.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                for chunk in chunks:
                    size += len(chunk)
                    if most is not None and size > most:
                        raise TooLarge(f"more than {most:,} bytes")
                    digest.update(chunk)
                    file.write(chunk)
                _sync(file)
            written = Written(size, digest.hexdigest())
            before(written)
            failpoint("files.written")
            scratch.replace(final)
            _sync_folder(final.parent)
        finally:
            scratch.unlink(missing_ok=True)
        return written


def output_name(batch_id: str, fence: int | None = None, kind: str = "") -> str:
    """Name of what a batch puts out: each holder of its lease writes its own. Without a fence: how all begin."""
    start = f"file-{batch_id.removeprefix('batch_')}-"
    return start if fence is None else f"{start}{fence}-{kind}"


def reader(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Chunks of what `read(n)` gives until it gives nothing."""
    while chunk := read(CHUNK):
        yield chunk


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from reader(file.read)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

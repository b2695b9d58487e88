"""Where parts go: names appear once, complete or not at all, and the first one stays."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pyarrow as pa
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ...grid.failpoints import failpoint
from .errors import TargetError
from .source import Storage

SCRATCH = ".tmp"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK)
_SMALL = 64 * 1024 * 1024


class Target(Protocol):
    """A folder of parts. Picklable: workers get a copy. Every implementation passes `tests/…/test_target.py`.

    The contract of `create` and `publish`: under a name there is nothing, or the complete content of exactly one
    call; a second call for a name that exists changes nothing and returns False. Both survive a kill at any point.
    """

    @property
    def url(self) -> str:
        """For people."""
        ...

    def names(self) -> set[str]:
        """Names of the files directly inside the folder; empty when there is no folder."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Make a small file, with its folder if need be. False: the name was taken."""
        ...

    def read(self, name: str, limit: int | None = None) -> bytes:
        """The whole content, or its first `limit` bytes. Raises FileNotFoundError."""
        ...

    def size(self, name: str) -> int:
        """Bytes. Raises FileNotFoundError."""
        ...

    def open(self, name: str) -> Any:
        """A `pyarrow.NativeFile` for random reads. Raises FileNotFoundError."""
        ...

    def scratch(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path on a local disk at which to write a file that may become `name`; removed at the end."""
        ...

    def publish(self, scratch: Path, name: str) -> bool:
        """Make a complete, synced scratch file visible as `name`. False: the name was taken, nothing changed."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away; one that is not there is fine."""
        ...

    def mark(self, name: str) -> None:
        """Leave a hidden mark that `clear` removes; marking twice is fine."""
        ...

    def marked(self, name: str) -> bool: ...

    def clear(self) -> None:
        """Remove marks and abandoned scratch files."""
        ...


@dataclass(frozen=True)
class LocalTarget:
    """A folder that driver and workers share: hard links make a name appear exclusively and complete."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def names(self) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.root) if entry.name != SCRATCH}
        except FileNotFoundError:
            return set()
        except NotADirectoryError:
            raise TargetError(f"{self.root} is a file: the target must be a folder") from None

    def create(self, name: str, data: bytes) -> bool:
        self.root.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(FileNotFoundError), self.scratch(name) as path:
                path.write_bytes(data)
                sync(path)
                failpoint("bulk.create.before_link")
                created = self.publish(path, name)
                failpoint("bulk.create.after_link")
                return created
            # Another driver finished the job and cleared the scratch folder under us: make it again.

    def read(self, name: str, limit: int | None = None) -> bytes:
        with (self.root / name).open("rb") as file:
            return file.read(-1 if limit is None else limit)

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size

    def open(self, name: str) -> Any:
        return pa.OSFile(str(self.root / name))

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        path = self._scratch_folder() / f"{name}.{uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def publish(self, scratch: Path, name: str) -> bool:
        try:
            return self._publish(scratch, self.root / name)
        finally:
            sync(self.root)

    def _publish(self, scratch: Path, final: Path) -> bool:
        try:
            os.link(scratch, final)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if final.exists():  # the job was finished by others, and the scratch folder cleared under us
                return False
            raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: the check and the move are two steps, so two attempts that finish in
            # the same instant may both succeed; the later one replaces an equal part. Nothing is doubled even then.
            if final.exists():
                return False
            scratch.rename(final)
        return True

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def mark(self, name: str) -> None:
        (self._scratch_folder() / name).touch()

    def marked(self, name: str) -> bool:
        return (self.root / SCRATCH / name).exists()

    def _scratch_folder(self) -> Path:
        """On the target's own file system, or nothing could be linked. Raises when the target itself is gone."""
        folder = self.root / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def clear(self) -> None:
        shutil.rmtree(self.root / SCRATCH, ignore_errors=True)


@dataclass(frozen=True)
class ObjectTarget:
    """A prefix on any fsspec file system. Uploads appear when complete; ``mode="create"`` makes them exclusive.

    As strong as the file system's create mode: S3 (``If-None-Match``) and Google (``ifGenerationMatch=0``) check on the
    server; where fsspec only looks first, two attempts that finish in the same instant may both write: equal parts.
    """

    fs: Any
    root: str

    @property
    def url(self) -> str:
        return str(self.fs.unstrip_protocol(self.root))

    def names(self) -> set[str]:
        self.fs.invalidate_cache()
        try:
            listed = self.fs.ls(self.root, detail=True)
        except FileNotFoundError:
            return set()
        return {one["name"].rsplit("/", 1)[-1] for one in listed if one["type"] == "file" and one["name"] != self.root}

    def create(self, name: str, data: bytes) -> bool:
        try:
            self.fs.pipe_file(self._path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, name: str, limit: int | None = None) -> bytes:
        return bytes(self.fs.cat_file(self._path(name), start=0, end=limit))

    def size(self, name: str) -> int:
        self.fs.invalidate_cache()
        return int(self.fs.info(self._path(name))["size"])

    def open(self, name: str) -> Any:
        return Storage(self.fs).open(self._path(name))

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="idlegrid-bulk-") as folder:
            yield Path(folder) / name

    def publish(self, scratch: Path, name: str) -> bool:
        if scratch.stat().st_size <= _SMALL:
            return self.create(name, scratch.read_bytes())
        try:
            self.fs.put_file(str(scratch), self._path(name), mode="create")
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def mark(self, name: str) -> None:
        self.fs.pipe_file(self._path(f"{SCRATCH}/{name}"), b"")

    def marked(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self._path(f"{SCRATCH}/{name}")))

    def clear(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self._path(SCRATCH), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"


def open_target(target: str | Path, storage_options: dict[str, Any] | None = None) -> Target:
    """The target for a local path or any fsspec URL. Raises TargetError for an unknown protocol."""
    if "://" not in str(target):
        return LocalTarget(Path(target).expanduser().absolute())
    try:
        fs, root = url_to_fs(str(target), **(storage_options or {}))
    except (ValueError, ImportError) as error:
        raise TargetError(f"can't open the target {target}: {error}") from error
    return LocalTarget(Path(root)) if isinstance(fs, LocalFileSystem) else ObjectTarget(fs, root)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_part(target: Target, scratch: Path, name: str) -> bool:
    """`Target.publish` between the two points at which tests kill the process."""
    failpoint("bulk.part.before_link")
    published = target.publish(scratch, name)
    failpoint("bulk.part.after_link")
    return published

"""Pins a model: writes what it consists of now into the models' lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..grid import catalogue
from ..grid.model_lock import COMMIT, LockedModel, read, write
from .model_pins import ModelRefused, contents, lock_file, name_of
from .models import DIFFUSERS, TRANSFORMERS, locate


@dataclass(frozen=True, slots=True)
class Pinned:
    """What was pinned."""

    name: str
    folder: Path
    lock: Path
    locked: LockedModel

    @property
    def modules(self) -> list[str]:
        """Its own code."""
        return [path for path in sorted(self.locked.files) if path.endswith(".py")]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": self.name,
            "folder": str(self.folder),
            "lock": str(self.lock),
            "revision": self.locked.revision,
            "content": self.locked.content,
            "modules": self.modules,
            "files": dict(self.locked.files),
        }


def pinned(model: str, *, revision: str | None = None, code: bool = False) -> Pinned:
    """Pin a model to what it has now, in place of what it was pinned to. Raises ModelNotFound, ModelRefused, OSError.

    `revision`: of the hub, None for the newest; `code`: fetch its own modules too.
    """
    name = name_of(model)
    listed = catalogue.find(model)
    layout = DIFFUSERS if listed is not None and listed.type == "image_gen" else TRANSFORMERS
    if (Path(model).expanduser() / DIFFUSERS.head).is_file():
        layout = DIFFUSERS
    folder = locate(model, layout=layout, revision=revision, code=code)
    on_hub = folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) is not None
    locked = LockedModel(contents(folder), folder.name if on_hub else None)
    lock = lock_file()
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _alone(lock):
        try:
            known = read(lock.read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = {}
        except ValueError as error:
            raise ModelRefused(f"{lock} is there and is no models' lock: {error}") from error
        draft = lock.with_name(f".{lock.name}.{os.getpid()}")
        draft.write_text(write(known | {name: locked}), encoding="utf-8")
        draft.replace(lock)
    return Pinned(name, folder, lock, locked)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two that pin at the same time keep each other's lines."""
    with lock.with_name(f".{lock.name}.busy").open("ab") as file:
        with suppress(ImportError):
            from fcntl import LOCK_EX, flock

            flock(file, LOCK_EX)
        yield

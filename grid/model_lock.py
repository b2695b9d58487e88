"""The models' lock: which files a model has, each with its SHA-256, and which revision of the hub they are. Pure.

The file is JSON, e.g.::

    {"version": 1, "models": {"org/model": {"revision": "<40 hex>", "files": {"config.json": "<64 hex>", …}}}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

VERSION = 1
SUFFIXES = frozenset({".json", ".jinja", ".model", ".py", ".safetensors", ".tiktoken", ".txt"})
"""Of files that a model is loaded from."""
COMMIT = re.compile(r"[0-9a-f]{40}")
CONTENT = re.compile(r"[0-9a-f]{64}")


class BadLock(ValueError):
    """The file is no models' lock. The message says why."""


@dataclass(frozen=True, slots=True)
class LockedModel:
    """What a model consists of."""

    files: Mapping[str, str]
    """Path in the model's folder, with slashes → SHA-256, 64 hex digits."""
    revision: str | None = None
    """Commit on the hub, 40 hex digits; None: a local folder."""

    @property
    def content(self) -> str:
        """One digest of all files, 64 hex digits."""
        return sha256("".join(f"{path} {self.files[path]}\n" for path in sorted(self.files)).encode()).hexdigest()

    def difference(self, found: Mapping[str, str]) -> str | None:
        """How these files differ from the locked ones, in a few words; None: not at all."""
        for path in sorted(self.files):
            if path not in found:
                return f"{path} is missing"
            if found[path] != self.files[path]:
                return f"{path} has the SHA-256 {found[path]}, not {self.files[path]}"
        more = sorted(set(found) - set(self.files))
        return f"{more[0]} is not in the lock" if more else None


def files_of(folder: Path, paths: Iterable[Path] | None = None) -> list[Path]:
    """The files of a model's folder that count, sorted. Hidden ones and those in hidden folders don't."""
    found = []
    for path in folder.rglob("*") if paths is None else paths:
        parts = path.relative_to(folder).parts
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            found.append(path)
    return sorted(found)


def read(text: str) -> dict[str, LockedModel]:
    """The models of a lock. Raises BadLock."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadLock(f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise BadLock(f"it has no `version` {VERSION}")
    models = document.get("models")
    if not isinstance(models, dict):
        raise BadLock("it has no `models`")
    return {name: _model(name, entry) for name, entry in models.items()}


def write(models: Mapping[str, LockedModel]) -> str:
    """The lock of these models."""
    entries = {
        name: {"revision": model.revision, "files": dict(sorted(model.files.items()))}
        for name, model in sorted(models.items())
    }
    return json.dumps({"version": VERSION, "models": entries}, indent=2, ensure_ascii=False) + "\n"


def _model(name: str, entry: Any) -> LockedModel:
    files, revision = (entry.get("files"), entry.get("revision")) if isinstance(entry, dict) else (None, None)
    if not isinstance(files, dict) or not files:
        raise BadLock(f"{name} has no `files`")
    for path, digest in files.items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not CONTENT.fullmatch(str(digest)):
            raise BadLock(f"{name}: {path!r} needs a path in the model's folder and 64 hex digits")
    if revision is not None and not COMMIT.fullmatch(str(revision)):
        raise BadLock(f"{name}: a revision is a commit, 40 hex digits")
    return LockedModel(files, revision)

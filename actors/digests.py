"""SHA-256 of files, of large ones read once: a checkpoint of 140 GB is not read anew at every start of a stage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

LARGE = 32 * 2**20
"""Bytes: smaller files are hashed whenever they are asked for."""
SETTLED = 2.0
"""Seconds: a file that was changed just now may change again without looking different."""
MOST = 4096
"""Files that are remembered."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of(path: Path, *, believe: bool = True) -> bytes:
    """The digest of a file's content, 32 bytes. Raises OSError.

    What the Hugging Face hub keeps is named by it already, and the name is believed unless `believe` is False. Another
    large file is read when it is first seen, and when size or times say that it changed.
    """
    real = path.resolve()
    if believe and real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return bytes.fromhex(real.name)
    before = real.stat()
    if before.st_size < LARGE:
        return _read(real)
    looks = [before.st_size, before.st_mtime_ns, before.st_ctime_ns]
    known = _known().get(str(real))
    if isinstance(known, list) and known[:3] == looks and _SHA256.fullmatch(str(known[3:] and known[3])):
        return bytes.fromhex(known[3])
    digest = _read(real)
    if time.time() - before.st_mtime > SETTLED and real.stat().st_mtime_ns == before.st_mtime_ns:
        _remember(str(real), [*looks, digest.hex()])
    return digest


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def remembered_in() -> Path:
    """The file in which digests are remembered. Nothing is lost with it but time."""
    return user_cache_path("idlegrid") / "weights.json"


def _known() -> dict[str, Any]:
    try:
        known = json.loads(remembered_in().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: str, entry: list[Any]) -> None:
    """Best effort: where it can't be kept, the file is read again the next time."""
    place = remembered_in()
    known = {name: each for name, each in _known().items() if name != path}
    kept = dict(list(known.items())[1 - MOST :])
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(kept | {path: entry}))
        draft.replace(place)

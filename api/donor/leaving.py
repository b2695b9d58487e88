"""What an agent leaves on its machine, and taking it away: each file with its size, nothing that is not its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...actors.digests import remembered_in
from ...grid import catalogue
from ...grid.config import ConfigError, Settings
from ...grid.config.fields import mask
from ...grid.credentials import BadCredentials, Credentials, Signer
from ...pipelines.dispatch.spool import HOME, default_folder
from .installing import Written, manifest_of
from .joining import load
from .server import Away, Refused, Service
from .spent_tickets import FILE as SPENT
from .state import Home
from .unit import NAME

UNIT, WRAPPED = "systemd unit", "environment of npx"
"""What two kinds of leftovers are called."""
WRAPPER = "NPX_GPU_WORKER"
"""Variable in which the wrapper for npx names the folder that it made."""
PATIENCE = 10.0
"""Seconds that the grid has to hear of it."""
STAMP = "gpu-worker.json"
"""File in that folder by which it is known."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file, or one folder with all that is in it."""

    what: str
    """For people: ``credentials``, ``log``, …"""
    path: Path
    size: int
    """Bytes."""


def leftovers(home: Home, environ: Mapping[str, str], *, models: bool = False) -> list[Leftover]:
    """All that is there now, in the order in which it is taken away: the secrets first, the program last."""
    found = [*_own_files(home), *_spool(home), *_there("digests of weights", [remembered_in()]), *_of_install(home)]
    if models:
        found += _models(home, environ)
    return [*found, *_there("list of files", [manifest_of(home)]), *_wrapper(environ)]


def remove(found: Iterable[Leftover]) -> Iterator[tuple[Leftover, str | None]]:
    """Take away one after the other: each with why it could not be."""
    for one in found:
        try:
            if one.path.is_dir() and not one.path.is_symlink():
                shutil.rmtree(one.path)
                if one.what == WRAPPED and one.path.parent.name == "gpu-worker":
                    with suppress(OSError):  # not empty
                        one.path.parent.rmdir()
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            yield one, error.strerror or str(error)
        else:
            yield one, None


async def goodbye(home: Home) -> str:
    """Tell the grid that this machine has left; the grid's address.

    Raises FileNotFoundError, BadCredentials, and ConnectionError when it can't be told.
    """
    signer = Signer(home.credentials)
    held = signer.credentials
    try:
        verify = load(home).settings.server.verify_ssl
    except ConfigError:
        verify = True
    try:
        async with Service(held.server, timeout=PATIENCE, verify=verify, signer=signer) as service:
            await service.offline(held.worker_id)
    except (Away, Refused) as error:
        raise ConnectionError(str(error)) from None
    return mask(held.server)


def remove_empty(home: Home, environ: Mapping[str, str], made: Iterable[Path]) -> list[Path]:
    """Remove the folders of this agent in which nothing is left, the deepest first. Those that were removed."""
    folders = {path.parent for path in (*home.files, _spool_folder(home), remembered_in())} | set(made)
    named = environ.get(HOME)
    tops = {Path(named).absolute()} if named else {path for path in _ancestors(folders) if path.name == "idlegrid"}
    inside = {one for one in _ancestors(folders) if any(one == top or one.is_relative_to(top) for top in tops)}
    gone = []
    for folder in sorted(inside | set(made), key=lambda path: len(path.parts), reverse=True):
        try:
            folder.rmdir()
        except OSError:
            continue
        gone.append(folder)
    return gone


def _ancestors(folders: Iterable[Path]) -> set[Path]:
    return {one for folder in folders for one in (folder, *folder.parents)}


def _own_files(home: Home) -> Iterator[Leftover]:
    named = {
        "credentials": home.credentials,
        "certificate": home.certificate,
        "certificate of the CA": home.authority,
        "configuration": home.config,
        "state": home.state,
        "starts of jobs": home.starts,
        "log": home.log,
        "spent tickets": home.credentials.with_name(SPENT),
        "lock": home.lock,
        "socket": home.control_socket,
        "socket of orders": home.orders_socket,
        "page": home.page_file,
    }
    for what, path in named.items():
        drafts = path.parent.glob(f".{path.name}.*")
        older = [one for one in path.parent.glob(f"{path.name}.*") if one.suffix[1:].isdigit()]
        yield from _there(what, [path, *sorted(older), *sorted(drafts)])


def _spool(home: Home) -> Iterator[Leftover]:
    """Ends of jobs that the grid was not told yet."""
    yield from _there("spool", [_spool_folder(home)])


def _spool_folder(home: Home) -> Path:
    try:
        return default_folder(Credentials.load(home.credentials).worker_id)
    except (FileNotFoundError, BadCredentials):
        return default_folder("nobody")


def _of_install(home: Home) -> Iterator[Leftover]:
    for path in Written.load(home).files:
        if path.name == NAME:
            yield from _there("systemd link", [path.parent / "default.target.wants" / NAME])
        yield from _there(UNIT if path.name == NAME else "file", [path])


def _models(home: Home, environ: Mapping[str, str]) -> Iterator[Leftover]:
    """Models in the cache of Hugging Face that this program may have loaded; other programs may use them too."""
    cache = Path(environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    cache = Path(environ.get("HF_HUB_CACHE", cache))
    names = {entry.id for entry in catalogue.models()} | _configured(home)
    for name in sorted(names):
        yield from _there("model", [cache / f"models--{name.replace('/', '--')}"])


def _configured(home: Home) -> set[str]:
    try:
        engines = load(home).settings.engines
    except ConfigError:
        engines = Settings().engines
    return {engine["model_id"] for engine in engines.model_dump().values() if engine["model_id"]}


def _wrapper(environ: Mapping[str, str]) -> Iterator[Leftover]:
    folder = Path(environ.get(WRAPPER) or "/nonexistent")
    try:
        stamped = json.loads((folder / STAMP).read_text(encoding="utf-8"))["made_by"] == "npx gpu-worker"
    except (OSError, ValueError, TypeError, KeyError):
        return
    if stamped:
        yield from _there(WRAPPED, [folder])


def _there(what: str, paths: Iterable[Path]) -> Iterator[Leftover]:
    for path in paths:
        if path.is_symlink() or path.exists():
            yield Leftover(what, path, _size(path))


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what can't be read counts as nothing."""
    if path.is_symlink() or not path.is_dir():
        return _bytes(path)
    return sum(_bytes(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0

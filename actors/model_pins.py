"""What a model must be before it is loaded here: the files of the models' lock. And whether code of its own may run.

Such code runs only where the operator of this machine names the model with its revision (`models.remote_code`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from platformdirs import user_config_path

from ..grid import catalogue
from ..grid.config import load_settings
from ..grid.config.models import Models
from ..grid.model_lock import CONTENT, BadLock, LockedModel, files_of, read
from .digests import sha256_of

_ASKS = "trust_remote_code"
"""What transformers, sentence-transformers and diffusers name when they meet code that they were not allowed to run."""


class ModelNotFound(Exception):
    """The model's files can't be had on this machine. The message says what was tried."""


class ModelRefused(ModelNotFound):
    """The model's files are here, and are not loaded. The message says why, and what an operator can do."""


@cache
def rules() -> Models:
    """What this machine's operator says of models."""
    return load_settings().settings.models


def lock_file() -> Path:
    """Where the models' lock is, or would be."""
    return rules().lock_file or user_config_path("idlegrid", appauthor=False) / "models.lock.json"


def locked() -> Mapping[str, LockedModel]:
    """The models of the lock; none where there is no lock. Raises ModelRefused when it can't be read."""
    path = lock_file()
    try:
        return read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if rules().lock_file is None and not rules().only_locked:
            return {}
        raise ModelRefused(f"the models' lock {path} is not there; make it with `idlegrid models pin`") from None
    except (OSError, BadLock) as error:
        raise ModelRefused(f"the models' lock {path} can't be used: {error}") from error


def name_of(model: str) -> str:
    """The name under which a model is pinned: a folder's full path, the catalogue's id, else itself."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    entry = catalogue.find(model)
    return entry.id if entry is not None else model


def commit_of(name: str) -> str | None:
    """The commit of the hub to which a model is pinned; None: to none. Raises ModelRefused when two differ."""
    entry, allowed = locked().get(name), _allowed(name)
    code = None if allowed is None or CONTENT.fullmatch(allowed) else allowed
    commit = entry.revision if entry is not None else None
    if None not in (code, commit) and code != commit:
        raise ModelRefused(f"{name} is pinned to {commit} by the models' lock and to {code} by models.remote_code")
    return commit or code


def check(name: str, folder: Path) -> None:
    """Compare a folder with the lock. Raises ModelRefused: nothing of it is to be loaded."""
    entry = locked().get(name)
    if entry is None:
        if rules().only_locked:
            raise ModelRefused(
                f"{name} is not in the models' lock {lock_file()}, and only models that are may be loaded here "
                f"(models.only_locked); pin it with `idlegrid models pin {name}`"
            )
        return
    if different := entry.difference(contents(folder)):
        raise ModelRefused(
            f"{name} is not what the models' lock {lock_file()} says: in {folder} {different}. Nothing of it was "
            f"loaded; get the right files, or pin these with `idlegrid models pin {name}`"
        )


def contents(folder: Path) -> dict[str, str]:
    """Path → SHA-256 of each file that counts. Large files are read once (see `digests`), whatever they are called."""
    return {path.relative_to(folder).as_posix(): sha256_of(path, believe=False).hex() for path in files_of(folder)}


@contextmanager
def own_code(model: str, folder: Path) -> Iterator[bool]:
    """Whether code in the model's folder may run: what the libraries that load it here are to be told.

    Raises ModelRefused for a model that needs its own code and is not allowed to, or is not what was allowed.
    """
    name = name_of(model)
    allowed = may_run(name, folder)
    try:
        yield allowed
    except (ValueError, ImportError) as error:
        if allowed or _ASKS not in str(error):
            raise
        raise ModelRefused(
            f"{model} brings code of its own, which does not run here unless the operator of this machine allows it. "
            f"Read the code, then set `models.remote_code: {{{name}: REVISION}}`; "
            f"`idlegrid models pin --with-code {model}` tells the revision."
        ) from error


def is_allowed(name: str) -> bool:
    """Whether `models.remote_code` names this model."""
    return _allowed(name) is not None


def may_run(name: str, folder: Path) -> bool:
    """Whether this folder's code may run. Raises ModelRefused when another revision of the model's is allowed."""
    wanted = _allowed(name)
    if wanted is None:
        return False
    if strange := next(_elsewhere(folder), None):
        raise ModelRefused(f"{name} names code of another model ({strange}), which nobody pinned: it is not loaded")
    if CONTENT.fullmatch(wanted):
        found = LockedModel(contents(folder)).content
    else:
        found = folder.name if folder.parent.name == "snapshots" else "a folder without a commit"
    if found != wanted:
        raise ModelRefused(
            f"{name} may run its own code in the revision {wanted} (models.remote_code), and {folder} is {found}: "
            "nothing of it was loaded"
        )
    return True


def _allowed(name: str) -> str | None:
    return next((revision for model, revision in rules().remote_code.items() if name_of(model) == name), None)


def _elsewhere(folder: Path) -> Iterator[str]:
    """Classes that a configuration takes from another repository: ``org/other--module.Class``."""
    for path in files_of(folder, folder.rglob("*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        mapped = said.get("auto_map") if isinstance(said, dict) else None
        for value in mapped.values() if isinstance(mapped, dict) else [mapped]:
            yield from (
                one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and "--" in one
            )

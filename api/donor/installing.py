"""Prepares a machine for lending: what its environment lacks, the systemd unit, and a list of all that was written."""

from __future__ import annotations

import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from platformdirs import user_cache_path, user_config_path, user_data_path, user_state_path

from ...pipelines.dispatch.spool import HOME
from ..ports import CannotStart
from .state import Home, write_private
from .unit import DRAIN, NAME, escaped, unit_text

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch is without gigabytes of CUDA."""
EXTRAS = ("worker", "audio", "image")
"""What every job type of ours needs."""
_OF_EXTRA = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^]]*])?[^;]*;.*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"]")


@dataclass(frozen=True, slots=True)
class Written:
    """What `install` wrote on this machine, remembered so that `uninstall` can take all of it away."""

    files: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    """Removed only when nothing is left in them."""

    @classmethod
    def load(cls, home: Home) -> Written:
        """What is remembered; nothing where nothing readable is."""
        try:
            said = json.loads(manifest_of(home).read_text(encoding="utf-8"))
            return cls(tuple(map(Path, said["files"])), tuple(map(Path, said["folders"])))
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def save(self, home: Home) -> None:
        """Remember this, and what was remembered before."""
        before = Written.load(home)
        files, folders = dict.fromkeys(before.files + self.files), dict.fromkeys(before.folders + self.folders)
        write_private(
            manifest_of(home), json.dumps({"files": [*map(str, files)], "folders": [*map(str, folders)]}, indent=1)
        )


def manifest_of(home: Home) -> Path:
    """Where it is remembered."""
    return home.state.with_name("installed.json")


def wanted_extras(*, gpu: bool, platform: str = sys.platform) -> tuple[str, ...]:
    """The extras of the package that this machine can use; `gpu`: NVIDIA's driver sees one."""
    return (*EXTRAS, "gpu") if gpu and platform == "linux" else EXTRAS


def missing_packages(extra: str) -> tuple[str, ...]:
    """The packages of an extra that are not installed, by name."""
    found = (_OF_EXTRA.match(line) for line in requires("idlegrid") or ())
    names = dict.fromkeys(one["name"] for one in found if one is not None and one["extra"] == extra)
    return tuple(name for name in names if not _installed(name))


def pip_command(extras: Iterable[str], *, gpu: bool, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The command that installs extras of the version that is here, into the environment that this runs in."""
    own_index = any(name in environ for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"))
    where = () if gpu or own_index else ("--extra-index-url", CPU_INDEX)
    what = f"idlegrid[{','.join(extras)}]=={version('idlegrid')}"
    return (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *where, what)


def own_environment() -> bool:
    """Whether packages may be installed here: a virtual or conda environment, not the system's Python."""
    if sys.prefix != sys.base_prefix or (Path(sys.prefix) / "conda-meta").is_dir():
        return True
    return not (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").is_file() and os.access(sys.prefix, os.W_OK)


def unit_path() -> Path:
    """Where the user's own systemd looks."""
    return user_config_path("systemd", appauthor=False) / "user" / NAME


def unit_of(home: Home, environ: Mapping[str, str]) -> str:
    """The unit for the agent of this home, run by the program that is running now. Raises ValueError."""
    program = Path(sys.executable).with_name("gpu-worker")
    start = (str(program),) if program.is_file() else (sys.executable, "-m", "idlegrid.api.cli", "worker")
    named = environ.get(HOME)
    places = [Path(named)] if named else [home.config.parent, _state(), _data()]
    return unit_text(
        (*map(escaped, start), "start", "--drain-timeout", str(DRAIN)),
        credentials=escaped(str(home.credentials)),
        writable=[f"-{escaped(str(path))}" for path in (*places, _cache())],
        environment={HOME: named} if named else {},
        private_tmp=not home.control_socket.is_relative_to(tempfile.gettempdir()),
    )


def folders_of_unit(home: Home, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """What must be there before the unit starts, since it may write nowhere else."""
    return (*dict.fromkeys(path.parent for path in home.files), *(() if HOME in environ else (_data(),)), _cache())


def write_unit(home: Home, environ: Mapping[str, str]) -> Written:
    """Write the unit and make its folders. What was written. Raises CannotStart."""
    try:
        text, path = unit_of(home, environ), unit_path()
        made = [folder for folder in folders_of_unit(home, environ) if not folder.exists()]
        for folder in (*folders_of_unit(home, environ), path.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, text)
    except (OSError, ValueError) as error:
        raise CannotStart(f"the unit can't be written: {error}") from None
    written = Written((path,), tuple(made))
    written.save(home)
    return written


def after_unit(*, joined: bool) -> Iterator[tuple[str, ...]]:
    """The commands that put the unit in force."""
    yield ("systemctl", "--user", "daemon-reload")
    yield ("systemctl", "--user", "enable", *(("--now",) if joined else ()), NAME)


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _state() -> Path:
    return user_state_path("idlegrid", appauthor=False)


def _data() -> Path:
    return user_data_path("idlegrid", appauthor=False)


def _cache() -> Path:
    """The user's caches: models, and what torch compiles, lie in folders of it that others share."""
    return user_cache_path()

"""Where an agent keeps what it must not forget: its files, and the few words of them that it changes itself."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from platformdirs import user_config_path, user_runtime_path, user_state_path

from ...grid.certificate_files import AUTHORITY
from ...pipelines.dispatch.spool import HOME
from ..ports import CannotStart

_SOCKET_PATH = 100
"""Bytes that the path of a Unix socket may have, and a little less."""


@dataclass(frozen=True, slots=True)
class Home:
    """The files of one agent. Nothing is made before it is needed; folders are 0700, files 0600."""

    config: Path
    """The owner's settings."""
    credentials: Path
    """What the grid gave this machine when it joined."""
    certificate: Path
    """What this machine shows on the Dask network, with its key."""
    authority: Path
    """By which it checks whom it meets there."""
    state: Path
    """What outlives a restart: `Kept`."""
    starts: Path
    """When jobs were begun, within a day: `Tally`."""
    log: Path
    control_socket: Path
    """Where the command line speaks with the running agent."""
    orders_socket: Path
    """Where the agent speaks with its worker process."""
    page_file: Path
    """Opens the page for the owner; there while the agent runs."""
    lock: Path
    """Held by the agent that runs."""

    @classmethod
    def find(cls, folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Self:
        """Everything under `folder`, else under the variable `HOME`'s, else in the user's folders as XDG has them."""
        named = (os.environ if environ is None else environ).get(HOME)
        if folder is None and named:
            folder = Path(named)
        if folder is not None:
            folder = folder.expanduser().absolute()
            return cls._of(folder, folder / "state", folder / "run")
        return cls._of(
            user_config_path("idlegrid", appauthor=False),
            user_state_path("idlegrid", appauthor=False) / "agent",
            _runtime(),
        )

    @classmethod
    def _of(cls, config: Path, state: Path, runtime: Path) -> Self:
        sockets = _short_enough(runtime)
        return cls(
            config=config / "config.yaml",
            credentials=state / "credentials.json",
            certificate=state / "worker.pem",
            authority=state / AUTHORITY,
            state=state / "state.json",
            starts=state / "starts.jsonl",
            log=state / "agent.log",
            control_socket=sockets / "control.sock",
            orders_socket=sockets / "orders.sock",
            page_file=sockets / "page.html",
            lock=state / "lock",
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(getattr(self, one.name) for one in fields(self))

    def make(self) -> None:
        """Make the folders. Raises CannotStart when one can't be made or belongs to somebody else."""
        for folder in dict.fromkeys(path.parent for path in self.files):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder.stat().st_uid != os.getuid():
                    raise CannotStart(f"{folder} belongs to another user; name another folder with --home")
            except OSError as error:
                raise CannotStart(f"{folder} can't be made ({error.strerror}); name another with --home") from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the agent's place while the context is open. Raises CannotStart: another agent runs here."""
        from fcntl import LOCK_EX, LOCK_NB, flock

        self.make()
        with self.lock.open("a+b") as file:
            try:
                flock(file, LOCK_EX | LOCK_NB)
            except OSError:
                file.seek(0)
                pid = file.read().decode(errors="replace").strip()
                told = f"an agent runs here already (process {pid})"
                raise CannotStart(f"{told}; `gpu-worker status` asks it") from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an agent keeps over its restarts."""

    pull: bool = False
    """It asks for its work over HTTP alone."""
    scheduler_address: str | None = None
    """Of the Dask scheduler, as the grid told it."""
    paused: bool = False
    paused_until: datetime | None = None
    """When the pause ends by itself. None: it lasts until the owner ends it."""
    config_version: int = 0
    """Of `remote`."""
    remote: dict[str, Any] = field(default_factory=dict)
    """The load control that the grid holds for this machine, as it was last told."""
    pushed: dict[str, Any] = field(default_factory=dict)
    """The owner's own load control, as the grid was last told."""
    enrolment: str = ""
    """Digest of the enrolment token that let this machine in."""
    name: str = ""
    region: str = ""
    """Name and region under which this machine is registered, for where its owner sets none."""
    announced: dict[str, Any] = field(default_factory=dict)
    """What this machine is, as the grid was last told."""

    @classmethod
    def load(cls, path: Path) -> Kept:
        """What is on disk; the defaults where nothing readable is."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            known = {one.name: document[one.name] for one in fields(cls) if one.name in document}
            until = known.get("paused_until")
            return replace(cls(**known), paused_until=None if until is None else datetime.fromisoformat(until))
        except (OSError, ValueError, TypeError, KeyError):
            return cls()

    def save(self, path: Path) -> None:
        """All of it or nothing, for this user's eyes only."""
        document = asdict(self)
        document["paused_until"] = None if self.paused_until is None else self.paused_until.isoformat()
        write_private(path, json.dumps(document, indent=1))


def write_private(path: Path, text: str) -> None:
    """Replace a file by one with `text`, all of it or nothing, readable by this user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise


def _runtime() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has a place under /tmp where the system names none; `make` checks whose
        return user_runtime_path("idlegrid", appauthor=False)


def _short_enough(folder: Path) -> Path:
    """`folder`, or a short one of this user's own in its place: a socket's path has room for about 100 bytes."""
    if len(os.fsencode(folder / "control.sock")) <= _SOCKET_PATH:
        return folder
    told = blake2b(os.fsencode(folder), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"idlegrid-{os.getuid()}-{told}"

"""What a worker still has to tell the grid: on disk, so that it outlives the service's absence and the worker's death.

Two kinds of file in one folder a worker, both named after the attempt: a *letter* (``.letter``) is how an attempt
ended, and waits until the service takes it; a *mark* (``.mark``) says that an attempt runs. A mark that is left from a
process that is dead is the donor's own report that its worker died under that attempt; or, when it was killed because
its owner needed the machine, that the attempt is handed back. A mark is called ``.coming`` until the attempt is known
to have begun.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from platformdirs import user_data_path

from ...grid.job_rules import HANDED_BACK
from .doors import Away, Doors, Gone, Unfit
from .work_order import Identity, WorkOrder

logger = logging.getLogger(__name__)

LETTER, MARK, COMING = ".letter", ".mark", ".coming"
Blame = Callable[[WorkOrder, Identity], bytes]
"""How an attempt that was left is told, as the door `complete` takes it."""
PATIENCE = 20.0
"""Seconds that the service has to take a letter: a result may be large."""
RETRY_FIRST, RETRY_MOST = 0.2, 2.0
"""Seconds between two tries while the service is away."""


HOME = "IDLEGRID_HOME"
"""Environment variable with one folder for all files of a donor's agent and of its worker."""


def default_folder(worker_id: str) -> Path:
    """Where the spool of a worker lies: in its agent's folder if it has one of its own, else in the user's data."""
    home = os.environ.get(HOME)
    data = Path(home) / "data" if home else user_data_path("idlegrid", appauthor=False)
    return data / "spool" / worker_id.replace("/", "_")


class Spool:
    """One worker's spool. Thread-safe; a process has one."""

    def __init__(self, folder: Path, doors: Doors) -> None:
        """Reads nothing before `start`. `folder` is made when it is needed."""
        self._folder, self._doors = folder, doors
        self._news = threading.Event()
        self._closed = threading.Event()
        self._empty = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._lock: IO[bytes] | None = None

    def start(self, who: Identity, blame: Blame | None = None) -> None:
        """Take over what an earlier process of this worker left: its letters are delivered, its marks reported.

        `blame`: what a mark is reported as; None: as the worker's death. Does nothing of it while another live process
        has this folder.
        """
        if not self._folder.is_dir() and not self._make():
            return
        blame = blame or died
        self._lock = _locked(self._folder / "lock")
        if self._lock is None:
            logger.warning("another process uses the spool %s", self._folder)
            return
        for path in self._marks():
            with suppress(OSError, ValueError, KeyError, TypeError):
                attempt, dead, _ = _read(path)
                if dead != who and not (path.suffix == COMING and blame is died):  # nothing killed what had not begun
                    self.keep(attempt, dead, blame(attempt, dead))
            path.unlink(missing_ok=True)
        if any(self._letters()):
            self._wake()

    def expect(self, attempt: WorkOrder, who: Identity) -> None:
        """Note that an attempt is about to begin: a process that is killed in between leaves word of it."""
        with suppress(OSError):
            self._make()
            _write(self._folder / f"{attempt.name}{COMING}", attempt, who, b"", sync=False)

    def mark(self, attempt: WorkOrder, who: Identity) -> None:
        """Note that an attempt runs. Best effort: without a mark the lease's end tells of a death, only later."""
        mark = self._folder / f"{attempt.name}{MARK}"
        try:
            mark.with_suffix(COMING).replace(mark)
        except OSError:
            with suppress(OSError):
                self._make()
                _write(mark, attempt, who, b"", sync=False)

    def unmark(self, attempt: WorkOrder) -> None:
        """The attempt has ended, or is left to whoever comes when its lease ends."""
        for kind in (MARK, COMING):
            with suppress(OSError):
                (self._folder / f"{attempt.name}{kind}").unlink(missing_ok=True)

    def unmark_all(self) -> None:
        """The process ends, and no attempt is to blame for it."""
        for path in self._marks():
            path.unlink(missing_ok=True)

    def marked(self) -> list[tuple[WorkOrder, Identity]]:
        """The attempts that run, or ran when their process ended, as far as their marks tell."""
        found = []
        for path in self._marks():
            with suppress(OSError, ValueError, KeyError, TypeError):
                attempt, who, _ = _read(path)
                found.append((attempt, who))
        return found

    def keep(self, attempt: WorkOrder, who: Identity, body: bytes) -> None:
        """Put how an attempt ended on disk, to be told as soon as the service is there. Raises OSError: disk full."""
        self._make()
        _write(self._folder / f"{attempt.name}{LETTER}", attempt, who, body, sync=True)
        self._wake()

    def waiting(self) -> int:
        """How many letters are not delivered yet."""
        return sum(1 for _ in self._letters())

    def flush(self, patience: float) -> bool:
        """Try for `patience` seconds to deliver everything. Whether nothing is left."""
        if not self.waiting():
            return True
        self._empty.clear()
        self._wake()
        return self._empty.wait(patience)

    def close(self) -> None:
        """End the thread; what is not delivered stays on disk."""
        self._closed.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)
        if self._lock is not None:
            self._lock.close()

    # -- delivery

    def _wake(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, name="idlegrid-spool", daemon=True)
                self._thread.start()
        self._news.set()

    def _deliver(self) -> None:
        pause = RETRY_FIRST
        while not self._closed.is_set():
            self._news.clear()
            away = self._deliver_once()
            if not self.waiting():
                self._empty.set()
            pause = min(pause * 2, RETRY_MOST) if away else RETRY_FIRST
            self._news.wait(pause if away else None)
            if away:  # news don't hurry a service that is away
                self._closed.wait(RETRY_FIRST)

    def _deliver_once(self) -> bool:
        """Try each letter once; whether the service was away. What can never be delivered is dropped."""
        for path in sorted(self._letters()):
            try:
                attempt, who, body = _read(path)
                status = self._doors.complete(attempt, who, body, PATIENCE)
                logger.info("attempt %s was told late: the job is %s", attempt.name, status)
            except Away as error:
                logger.info("the spool waits: %s", error)
                return True
            except (Gone, Unfit, OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("a letter of the spool is dropped: %s", error)
            path.unlink(missing_ok=True)
        return False

    def _marks(self) -> list[Path]:
        return sorted([*self._folder.glob(f"*{MARK}"), *self._folder.glob(f"*{COMING}")])

    def _letters(self) -> Iterator[Path]:
        return self._folder.glob(f"*{LETTER}")

    def _make(self) -> bool:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("no spool can be made in %s: %s", self._folder, error)
            return False
        return True


def died(attempt: WorkOrder, who: Identity) -> bytes:
    """The end of an attempt whose process died, as the door `complete` takes it."""
    return failed(attempt, who, "worker_died", "the worker's process died", retry=True, death=True)


def handed_back(attempt: WorkOrder, who: Identity, why: str, seconds: float = 0.0) -> bytes:
    """The end of an attempt that its donor gave up, as the door `complete` takes it: nobody is to blame."""
    return failed(attempt, who, HANDED_BACK, f"handed back: {why}", retry=True, seconds=seconds)


def failed(
    attempt: WorkOrder, who: Identity, code: str, message: str, *, retry: bool, death: bool = False, seconds: float = 0
) -> bytes:
    """The end of an attempt without a result, as the door `complete` takes it."""
    error = {"code": code, "message": message, "retry": retry, "death": death}
    return json.dumps(head(attempt, who) | {"success": False, "error": error, "processing_time": seconds}).encode()


def head(attempt: WorkOrder, who: Identity) -> dict[str, Any]:
    """What every word of an attempt begins with."""
    return {"fence": attempt.fence, "incarnation": who.incarnation}


def _write(path: Path, attempt: WorkOrder, who: Identity, body: bytes, *, sync: bool) -> None:
    """All of it or nothing under `path`, for this user's eyes only. The client's parameters are not in it."""
    facts = asdict(attempt) | {"params": {}}
    document = {"attempt": facts, "who": asdict(who)}
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document).encode() + b"\n" + body)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[WorkOrder, Identity, bytes]:
    first, _, body = path.read_bytes().partition(b"\n")
    document: dict[str, Any] = json.loads(first)
    facts = document["attempt"]
    attempt = WorkOrder(**(facts | {"api": tuple(facts["api"])}))
    return attempt, Identity(**document["who"]), body


def _locked(path: Path) -> IO[bytes] | None:
    """The file, locked for this process until it ends however it ends; None when another has it."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # no such locks on this system: a donor's id is one worker's there too
        return path.open("ab")
    file = path.open("ab")
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except OSError:
        file.close()
        return None
    return file

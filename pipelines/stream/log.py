"""The commits of a stream in a folder: one file each, and snapshots, so that a restart reads few of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..bulk.errors import BulkError
from ..bulk.source import in_threads
from ..bulk.target import Target, open_target
from .done import Done
from .errors import Overtaken, StreamError
from .sink import Commit, State, check_same

STREAM = "_stream.json"
SNAPSHOT_EVERY = 256
"""Commits between two snapshots: what a restart reads at most."""


def open_folder(target: str | Path | Target, storage_options: Mapping[str, Any] | None = None) -> Target:
    """The folder of a log. Raises StreamError for a URL of an unknown kind."""
    if not isinstance(target, str | Path):
        return target
    try:
        return open_target(target, dict(storage_options or {}))
    except BulkError as error:
        raise StreamError(str(error)) from error


class CommitLog:
    """Knows which commits are there. Files before the last snapshot may be taken away."""

    def __init__(
        self, target: Target, prefix: str, suffix: str, read: Callable[[Target, str], tuple[Commit, int]]
    ) -> None:
        """`read`: the commit in a file, and how many records it added; raises StreamError."""
        self.target, self._prefix, self._suffix, self._read = target, prefix, suffix, read
        self._records = 0

    def name(self, number: int) -> str:
        """The file of a commit."""
        return f"{self._prefix}{number:012d}{self._suffix}"

    def names(self) -> list[str]:
        """The files of all commits that lie there, in order."""
        return sorted(name for name in self.target.names() if name.startswith(self._prefix))

    def open(self, stream: Mapping[str, Any], facts: Mapping[str, Any]) -> State:
        """Begin or go on. Raises StreamError when the folder can't be used, or is another stream's."""
        target = self.target
        try:
            strange = sorted(name for name in target.names() if not self._ours(name))
            if strange:
                raise StreamError(f"{target.url} holds {strange[0]}, which no stream wrote: choose an empty folder")
            target.create(STREAM, json.dumps({"stream": stream, "facts": facts}, indent=1, sort_keys=True).encode())
            kept = json.loads(target.read(STREAM))
        except (OSError, ValueError, BulkError) as error:
            raise StreamError(f"can't keep a stream in {target.url}: {error}") from error
        check_same(stream, kept["stream"], target.url)
        state = self._state(kept["facts"])
        self._records = state.records
        return state

    def check_mine(self, commit: Commit) -> None:
        """Raise Overtaken unless the commit of this number that is there is this one."""
        name = self.name(commit.number)
        try:
            token = self._read(self.target, name)[0].token
        except FileNotFoundError:  # it was, and was taken away
            token = ""
        if token != commit.token:
            raise Overtaken(
                f"another process wrote {name} into {self.target.url}: one stream has one process at a time"
            )

    def covered(self, commit: Commit) -> bool:
        """Whether a snapshot covers this number: then its file may have been taken away, and its name be free."""
        try:
            self.target.size(_snapshot(-(-commit.number // SNAPSHOT_EVERY) * SNAPSHOT_EVERY))
        except FileNotFoundError:
            return False
        return True

    def added(self, commit: Commit, records: int, done: Done) -> None:
        """A commit is there. Writes a snapshot now and then."""
        if commit.number % SNAPSHOT_EVERY == 0:
            self._keep(commit.number, self._records + records, done)
        self._records += records

    def _keep(self, number: int, records: int, done: Done) -> None:
        kept = {"number": number, "records": records, "done": done.ranges()}
        self.target.create(_snapshot(number), json.dumps(kept).encode())

    def _state(self, facts: Mapping[str, Any]) -> State:
        snapshots = sorted(name for name in self.target.names() if name.startswith("_snapshot-"))
        number, records, done = 0, 0, Done()
        if snapshots:
            kept = json.loads(self.target.read(snapshots[-1]))
            number, records, done = kept["number"], kept["records"], Done(kept["done"])
        later = [name for name in self.names() if name > self.name(number)]
        for commit, added in in_threads(lambda name: self._read(self.target, name), later):
            if commit.number != number + 1:
                raise StreamError(
                    f"{self.target.url} lacks {self.name(number + 1)}, which no snapshot covers: put it back"
                )
            commit.apply(done)
            number, records = commit.number, records + added
            if number % SNAPSHOT_EVERY == 0:  # whoever wrote the commit died before: no snapshot is ever left out
                self._keep(number, records, done)
        return State(number, done, records, facts)

    def _ours(self, name: str) -> bool:
        return name == STREAM or name.startswith((self._prefix, "_snapshot-", "."))


def _snapshot(number: int) -> str:
    return f"_snapshot-{number:012d}.json"

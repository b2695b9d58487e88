"""A sink that is a function of the user's, with the checkpoint in a folder beside it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ...grid.failpoints import failpoint
from ..bulk.target import Target
from .done import Done
from .log import CommitLog, open_folder
from .sink import Commit, State

Callback = Callable[[list[dict[str, Any]]], Awaitable[None] | None]
"""Gets rows as mappings. Each has its ``record``, by which a row that comes twice is known."""


class CallbackSink:
    """Calls a function with the results, then notes that it did.

    The function and the note are two things: a process that dies between them calls the function again with the same
    records. So a function that keeps rows under their ``record`` gets each once; one that adds them up does not.
    """

    def __init__(self, function: Callback, checkpoint: str | Path | None = None) -> None:
        """`checkpoint`: folder or URL of the notes. None: nothing is noted, a restart begins anew."""
        self._function, self._called = function, ""
        self._log = None if checkpoint is None else CommitLog(open_folder(checkpoint), "commit-", ".json", _read)

    def open(self, stream: Mapping[str, Any], facts: Mapping[str, Any]) -> State:
        """See Sink."""
        return State(facts=facts) if self._log is None else self._log.open(stream, facts)

    def commit(self, commit: Commit, rows: Any, done: Done) -> None:
        """See Sink. Raises what the function raises; after an OSError it is called again, for a minute."""
        if self._called != commit.token:  # else it has these rows, and only the note is to be written again
            answer = self._function(rows.to_pylist())
            if inspect.isawaitable(answer):
                asyncio.run(_finish(answer))
            self._called = commit.token
        failpoint("stream.callback.called")
        if self._log is None:
            return
        document = {**commit.document(), "records": rows.num_rows}
        if not self._log.target.create(self._log.name(commit.number), json.dumps(document).encode()):
            self._log.check_mine(commit)
        self._log.added(commit, rows.num_rows, done)

    def close(self) -> None:
        """Nothing stays open."""


def _read(target: Target, name: str) -> tuple[Commit, int]:
    document = json.loads(target.read(name))
    return Commit.parse(document), int(document["records"])


async def _finish(answer: Awaitable[None]) -> None:
    await answer

"""Clears away what nobody keeps any more: files whose time is over, and what a batch that has ended left behind."""

from __future__ import annotations

from ...grid.store import Store
from .folder import FileFolder

CLEAR_EVERY = 60.0
"""Seconds between two looks at what lies in the folder."""
STRANGE = 7 * 86_400.0
"""Seconds after which what belongs to a batch that nobody knows is removed: no window is that long."""


class Clearing:
    """Content goes first, then the store forgets it: killed in between, the next look does both."""

    def __init__(self, store: Store, folder: FileFolder, lives: float | None) -> None:
        """`lives`: seconds that a batch is known after its window. None: for ever."""
        self._store, self._folder, self._lives = store, folder, lives
        self._looked = float("-inf")

    def look(self, now: float) -> None:
        """Overdue files at every call, the rest now and then. Blocking. Raises StoreUnavailable, OSError."""
        for file_id in self._store.files.overdue():
            self._folder.delete(file_id)
            self._store.files.forget(file_id)
        if now - self._looked < CLEAR_EVERY:
            return
        self._looked = now
        self._folder.clear_abandoned()
        for batch_id, age in self._folder.batches():
            files = self._store.batches.ended(batch_id)
            if files is not None or age > STRANGE:
                self._folder.clear(batch_id, files or ())
        if self._lives is not None:
            self._store.batches.expire(self._lives)

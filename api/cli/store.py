"""The database of a grid, for the commands that work on it without a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...grid.config import Settings
    from ...grid.store import Store


@contextmanager
def opened(values: Settings) -> Iterator[Store]:
    """The configured store, at this version's schema. Raises CannotStart where it can't be opened."""
    from ..ports import CannotStart

    try:
        from ..storing import connected
    except ModuleNotFoundError as error:
        raise CannotStart(f"this needs the extra `api` (pip install 'idlegrid[api]'): {error}") from error
    try:
        store = connected(values)
    except ValueError as error:
        raise CannotStart(f"database.url: {error}") from error
    try:
        store.upgrade()
        yield store
    finally:
        store.close()

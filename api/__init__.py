"""The doors: HTTP, Python, command line. The composition root; nobody imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import AsyncGridClient, GridClient
    from .grid import Grid

__all__ = ["AsyncGridClient", "Grid", "GridClient"]


def __getattr__(name: str) -> object:
    """Each on first use: a command's `--help` must not wait for Dask, nor an HTTP client for more than HTTP."""
    if name == "Grid":
        from .grid import Grid

        return Grid
    if name in ("AsyncGridClient", "GridClient"):
        from . import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

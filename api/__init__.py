"""The doors: HTTP, Python, command line. The composition root; nobody imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grid import Grid

__all__ = ["Grid"]


def __getattr__(name: str) -> object:
    """`Grid` on first use: a command's `--help` must not wait for Dask to be imported."""
    if name == "Grid":
        from .grid import Grid

        return Grid
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The command line: `idlegrid`, and `gpu-worker` for donors."""

from __future__ import annotations

from .app import main, worker_main

__all__ = ["main", "worker_main"]

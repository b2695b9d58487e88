"""A short trial of this process's device: what passes when one token is decoded, and what when a prompt is computed.

As a stage computes: by `linear`, in the dtype of the model, with as many threads as the process has.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import get_worker

from ..grid.layers.speed import Source, Speed

PLUGIN = "idlegrid-donor"
"""Name of the donor's plugin on its worker."""

_known: dict[tuple[str, str], Speed] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Size:
    matrices: int
    """So many, one after the other, so that none is in a cache when its turn comes again."""
    matrix_bytes: int
    columns: int
    prompt: int
    """Tokens."""


_CPU = _Size(matrices=12, matrix_bytes=8 << 20, columns=2048, prompt=64)
_CUDA = _Size(matrices=4, matrix_bytes=64 << 20, columns=4096, prompt=2048)
READING, COMPUTING = 0.25, 0.15
"""Seconds that either part takes, one pass more at most."""
QUICK = 0.2
"""The time that this share of the passes keeps: others have waited for somebody else on the machine."""


def trial(device: str, dtype: str) -> dict[str, Any]:
    """This process's speed, see `Speed.to_wire`. A Dask task, in a thread of the worker; once for each device
    and dtype.

    Takes half a second at most, and 200 MB for so long. Its worker tells the grid. Raises what torch does.
    """
    with _lock:
        speed = _known.get((device, dtype))
        if speed is None:
            speed = _known[device, dtype] = measure(device, dtype)
    with contextlib.suppress(ValueError):  # not on a worker
        if (plugin := get_worker().plugins.get(PLUGIN)) is not None:
            plugin.measured(speed)
    return speed.to_wire()


def measure(device: str, dtype: str) -> Speed:
    """The trial itself."""
    import torch

    from .llm import linear
    from .llm.torch_engine import DTYPES

    kind, size = DTYPES[dtype], _CUDA if device == "cuda" else _CPU
    rows = size.matrix_bytes // (size.columns * kind.itemsize)
    shape = (rows, size.columns)
    with torch.inference_mode():
        matrices = [
            linear.linear(torch.full(shape, 0.01, dtype=kind, device=device), None) for _ in range(size.matrices)
        ]
        one, many = (torch.ones((tokens, size.columns), dtype=kind, device=device) for tokens in (1, size.prompt))
        settle = torch.cuda.synchronize if device == "cuda" else _at_once
        reading = _pass_seconds([partial(matrix, one) for matrix in matrices], settle, READING)
        computing = _pass_seconds([partial(matrices[0], many)], settle, COMPUTING)
    return Speed(
        device=device,
        dtype=dtype,
        source=Source.PROBED,
        read_bytes_s=size.matrix_bytes / reading,
        compute_bytes_s=size.matrix_bytes * size.prompt / computing,
    )


def _pass_seconds(passes: Sequence[Callable[[], Any]], settle: Callable[[], None], within: float) -> float:
    """Of one pass, by those that nobody disturbed. The first round warms up; it counts where nothing else does."""
    first, took = list[float](), list[float]()
    until = time.perf_counter() + within
    for one in itertools.cycle(passes):
        since = time.perf_counter()
        if first and since > until:
            break
        one()
        settle()
        (first if len(first) < len(passes) else took).append(time.perf_counter() - since)
    counted = took if len(took) > 1 else first
    return statistics.quantiles(counted, n=round(1 / QUICK), method="inclusive")[0] if len(counted) > 1 else counted[0]


def _at_once() -> None:
    """A CPU has computed when it says so."""

"""The Dask actor that holds a stage's place on a worker: made, asked to start, to take seats and to stop, no more.

Steps go over links: an actor call costs more than a hop may, and passes the scheduler.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from distributed import get_worker

from ...grid.layers.speed import STEADY, Speed, Steady
from ..llm.stage import Stage
from ..llm.torch_engine import DTYPES
from ..memory import keep_freed_memory
from ..models import resolve, revision
from ..pauses import keep_pauses_short
from ..worker_address import client_tls, host_of, listener_tls
from .chain import StagePlace
from .leg import Door, Pace
from .loop_thread import LoopThread
from .stage_host import Seat, StageHost


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """What a stage is made of."""

    model: str
    """See `models.resolve`."""
    layers: range
    dtype: str = "float32"
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where there is one."""
    num_blocks: int
    """Pages; the same on every stage of a chain."""
    block_size: int = 16
    threads: int | None = None
    """Of torch, in the whole worker process. None: as they are."""
    pace: Pace = field(default_factory=Pace)
    layer_bytes: int = 0
    """Weights of one layer, as those who cut the model count them. 0: its speed is not told."""
    head_layers: float = 0.0
    """What the output head costs to compute, in layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A stage that is loaded and listens."""

    layers: range
    door: Door
    model: bytes
    """8 bytes that name the weights."""
    num_layers: int
    """Of the whole model."""
    bytes_loaded: int
    """Of weights."""
    bytes_of_pages: int
    pid: int


class StageActor:
    """Made and called through Dask; when Dask drops it, its stage ends."""

    def __init__(self, spec: StageSpec) -> None:
        """Loads nothing."""
        self._spec = spec
        self._worker = get_worker()
        self._host: StageHost | None = None
        self._thread: LoopThread | None = None

    def start(self) -> Started:
        """Load the layers and listen. Raises what `Stage` does, and OSError."""
        if self._thread is not None:
            raise RuntimeError("this stage was started already")
        spec, worker, folder = self._spec, self._worker, resolve(self._spec.model)
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        keep_freed_memory()
        keep_pauses_short()
        stage = Stage(
            folder,
            spec.layers,
            dtype=DTYPES[spec.dtype],
            device=spec.device if spec.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu",
            num_blocks=spec.num_blocks,
            block_size=spec.block_size,
        )
        model, tls = bytes.fromhex(revision(folder)), listener_tls(worker)
        self._host = StageHost(
            stage,
            model,
            listen_tls=tls,
            connect_tls=client_tls(worker),
            pace=spec.pace,
            head_layers=spec.head_layers if stage.last else 0.0,
        )
        self._thread = LoopThread("idlegrid-stage")
        weakref.finalize(self, self._thread.stop).atexit = False  # Dask dropped us: whoever wanted us is gone
        scheme = "tcp" if tls is None else "tls"
        door = self._thread.run(self._host.start(f"{scheme}://{host_of(worker.address)}:0")).result()
        return Started(
            layers=spec.layers,
            door=_as_reached(door, worker),
            model=model,
            num_layers=stage.shape.num_layers,
            bytes_loaded=stage.bytes_loaded,
            bytes_of_pages=stage.pages.data.nbytes,
            pid=os.getpid(),
        )

    def join(self, seat: Seat) -> None:
        """See StageHost.join."""
        if self._host is None or self._thread is None:
            raise RuntimeError("the stage was not started")
        self._thread.run(self._host.join(seat)).result()

    def speed(self, steady: Steady = STEADY) -> Speed | None:
        """By the steps that it computed. None while they say too little."""
        host, spec = self._host, self._spec
        if host is None or not spec.layer_bytes:
            return None
        return host.times.speed(host.stage.device.type, spec.dtype, spec.layer_bytes, time.monotonic(), steady)

    def next_round_trip(self) -> tuple[str, float] | None:
        """See StageHost.next_round_trip."""
        return None if self._host is None else self._host.next_round_trip

    def leave(self) -> None:
        """See StageHost.leave."""
        if self._host is not None and self._thread is not None:
            self._thread.run(self._host.leave()).result()

    def stop(self) -> None:
        """End the stage; its memory is free when Dask drops the actor. Idempotent."""
        if self._host is None or self._thread is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._thread.run(self._host.close()).result()
        self._thread.stop()
        self._thread.join()
        self._host = None


def _as_reached(door: Door, worker: Any) -> Door:
    """The address with which other machines reach it."""
    scheme, _, rest = door.address.partition("://")
    host = host_of(worker.contact_address or worker.address)
    return replace(door, address=f"{scheme}://{host}:{rest.rpartition(':')[2]}")


def place_of(actor: Any, started: Started) -> StagePlace:
    """A started stage for `connect_chain`; `actor`: the proxy that an asynchronous Dask client gave."""

    async def join(seat: Seat) -> None:
        await actor.join(seat)

    return StagePlace(layers=started.layers, door=started.door, join=join)

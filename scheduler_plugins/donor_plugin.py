"""The worker's half: carries the donor's facts and live load to the scheduler, and takes its orders."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from distributed import Worker, WorkerPlugin
from distributed.core import Status
from distributed.diagnostics import nvml

from ..grid.donors import Donor
from ..grid.layers.measured import Measured
from ..grid.layers.speed import Speed
from .facts import KEY, Report, Statement

logger = logging.getLogger(__name__)

CONTROL = "grid_control"
"""Name of the worker's RPC handler by which the scheduler pauses, resumes or drains it."""
ACTIONS = ("pause", "resume", "drain")
"""What it may be told."""


def check_action(action: str) -> None:
    """Raise ValueError for a word that isn't one of `ACTIONS`."""
    if action not in ACTIONS:
        raise ValueError(f"unknown action {action!r}: one of {', '.join(ACTIONS)}")


class DonorPlugin(WorkerPlugin):  # type: ignore[misc]
    """Says what its worker is and how it is: with the registration, with every heartbeat, and at once when it changes.

    Works wherever Dask starts a worker: ``Worker(plugins=[…])``, ``Nanny(…, plugins=…)`` in the worker's options,
    `SpecCluster`, `LocalCluster`, ``Client.register_plugin``, ``dask worker --preload`` and ``dask-cuda-worker
    --preload``. Two live workers with one donor id are refused work except the newest: a cluster that starts several
    workers from one plugin sets `per_worker`. Every method may be called from any thread.
    """

    name = "idlegrid-donor"

    def __init__(self, donor: Donor, *, per_worker: bool = False) -> None:
        """`per_worker`: the worker's name is added to the donor's id (``id/name``), so that one plugin serves many
        workers.
        """
        self.donor = self._template = donor
        self.per_worker = per_worker
        self.report = Report()
        self._measured = Measured()
        self._worker: Worker | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"donor": self._template, "per_worker": self.per_worker}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["donor"], per_worker=state["per_worker"])  # type: ignore[misc]

    @classmethod
    def of(cls, worker: Worker) -> DonorPlugin | None:
        """The plugin of a worker, None if it runs without one."""
        plugin = worker.plugins.get(cls.name)
        return plugin if isinstance(plugin, cls) else None

    def setup(self, worker: Worker) -> None:
        plugin = self if self._worker in (None, worker) else DonorPlugin(self._template, per_worker=self.per_worker)
        worker.plugins[self.name] = plugin
        plugin._install(worker)

    def _install(self, worker: Worker) -> None:
        self._worker = worker
        if self.per_worker:
            given = self._template
            self.donor = replace(given, id=f"{given.id}/{worker.name}", name=given.name or str(worker.name))
        worker.metrics[KEY] = self._metric
        worker.handlers[CONTROL] = self.control
        if worker.status == Status.running:  # installed on a running worker: the next heartbeat is too far away
            self._push()

    def teardown(self, worker: Worker) -> None:
        worker.metrics.pop(KEY, None)
        worker.handlers.pop(CONTROL, None)
        self._worker = None

    def pause(self) -> None:
        """Take nothing new until `resume`; what runs goes on."""
        self._change(paused=True)

    def resume(self) -> None:
        """Take work again, after `pause` or `drain`."""
        self._change(paused=False, draining=False)

    def drain(self) -> None:
        """Take nothing new and let what runs finish, so that the worker can leave without losing anything."""
        self._change(draining=True)

    def loaded(self, model_id: str) -> None:
        """A model is resident now: work for it comes here first."""
        self._change(add=model_id)

    def unloaded(self, model_id: str) -> None:
        """A model was dropped from memory."""
        self._change(remove=model_id)

    def elsewhere(self, slots: int) -> None:
        """So many slots are held by work that didn't come through the scheduler."""
        with self._lock:
            self.report = replace(self.report, sequence=self.report.sequence + 1, elsewhere=slots)
        self._push()

    def measured(self, speed: Speed) -> None:
        """How fast this worker computes layers: by a trial, or by the steps of a stage that serves."""
        with self._lock:
            new = self._measured.heard(speed, time.monotonic())
        if new:
            self._change()

    def linked(self, donor_id: str, seconds: float) -> None:
        """A round trip to another donor, by the link of a stage."""
        with self._lock:
            new = self._measured.linked(donor_id, seconds, time.monotonic())
        if new:
            self._change()

    def set_donor(self, donor: Donor) -> None:
        """Replace the facts, e.g. with new limits. The id stays what it was: raises ValueError otherwise.

        A worker that may run more jobs at the same time than it has threads gets more threads.
        """
        if donor.id != self.donor.id:
            raise ValueError(f"a donor keeps its id: it is {self.donor.id!r} and can't become {donor.id!r}")
        self.donor = donor
        if (worker := self._worker) is not None:
            worker.loop.add_callback(_widen, worker, donor.limits.max_concurrent_jobs)
        self._change()

    def control(self, action: str) -> dict[str, Any]:
        """RPC: ``pause``, ``resume`` or ``drain``; returns the statement that is true from now on. Raises ValueError
        on another word.
        """
        check_action(action)
        getattr(self, action)()
        return self.statement().to_wire()

    def statement(self) -> Statement:
        """What the worker says of itself now."""
        used, now = gpu_memory_used_gb(), time.monotonic()
        with self._lock:
            speeds, links = self._measured.speeds(now), self._measured.links(now)
            return Statement(self.donor, replace(self.report, gpu_memory_used_gb=used, speeds=speeds, links=links))

    def _change(self, *, add: str | None = None, remove: str | None = None, **flags: Any) -> None:
        with self._lock:
            loaded = (self.report.loaded | {add} if add else self.report.loaded) - {remove}
            self.report = replace(self.report, sequence=self.report.sequence + 1, loaded=frozenset(loaded), **flags)
        self._push()

    def _push(self) -> None:
        if self._worker is not None and self._worker.status in (
            Status.running,
            Status.paused,
            Status.closing_gracefully,
        ):
            self._worker.log_event(KEY, self.statement().to_wire())

    def _metric(self, worker: Worker) -> dict[str, Any]:
        return self.statement().to_wire()


def _widen(worker: Worker, threads: int) -> None:
    """Let the worker run so many tasks at the same time, at least. Fewer are the rule's business, not the threads'."""
    if threads > worker.state.nthreads:
        worker.state.nthreads = threads
        worker.executors["default"]._max_workers = threads


def gpu_memory_used_gb() -> float:
    """GPU memory in use by anybody on this process's GPU, in GB; 0 where there is no GPU or no NVML to ask."""
    if nvml.device_get_count() < 1:
        return 0.0
    used = nvml.real_time()["memory-used"]
    return float(used) / 1e9 if used is not None else 0.0

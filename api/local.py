"""A whole grid on this machine: the scheduler with our plugins and one worker process per core, or per GPU."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psutil
from distributed import Nanny, SpecCluster, Worker, WorkerPlugin
from distributed.diagnostics import nvml

from ..grid.config import Settings
from ..grid.donors import Donor
from ..grid.job_types import runnable_types
from ..grid.regions import check_region
from ..scheduler_plugins.donor_plugin import DonorPlugin
from ..scheduler_plugins.machine import visible_gpu
from .ports import LOOPBACK, CannotStart, check_free

# One thread per process: two pools of threads on the same cores wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""For glibc: what a model frees is kept for its next tensors. Dask has it given back to the system at 64 KB, and then a
model on a CPU spends a quarter of its time on getting it again."""
MEMORY_SHARE = 0.9
"""Of this machine's memory, for all workers together."""
GONE_WITHIN = 60.0
"""Seconds that a killed worker process may take to be gone."""
_GUARD = (
    "idlegrid: every worker process imports the script that starts it, so a script must start its grid under "
    'if __name__ == "__main__": (a notebook needs no such line)'
)


_NOISE = (
    ("distributed.worker", "Compute Failed"),  # the exception goes to whoever waits for the task
    ("distributed.worker", "Failed to communicate with scheduler during heartbeat"),  # it is gone, and that is told
    ("distributed.worker", "Scheduler was unaware of this worker"),
    ("distributed.worker.state_machine", "Async instruction"),  # of a task that was cancelled with its worker
    ("distributed.nanny", "Worker process died unexpectedly"),  # two threads of a worker that ends race for a last word
)


class ChildManners(WorkerPlugin):  # type: ignore[misc]
    """How a worker process behaves beside the one that started it, which alone acts and talks.

    Ctrl-C reaches every process of a terminal, and of a notebook's kernel: without this the workers die with half
    their work done, while whoever started them wants it finished. What is told elsewhere, or means nothing, is not
    logged.
    """

    name = "idlegrid-child-manners"

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name, words in _NOISE:
            logging.getLogger(name).addFilter(partial(_means_something, words))


class ModelNanny(Nanny):  # type: ignore[misc]
    """Starts a worker process in which models compute."""

    pre_spawn_env: dict[str, str]
    env: dict[str, str]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pre_spawn_env = self.pre_spawn_env | KEEPS_MEMORY  # `env` is read when a process has allocated already
        self.env = self.env | KEEPS_MEMORY

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:  # noqa: ASYNC109 - Dask's signature
        """As Dask's, but a killed process may take its time to go: on a busy machine the rest of `timeout` is too
        short, and whoever closes a grid would get a TimeoutError for work that is done."""
        process = self.process
        try:
            await super().kill(timeout=timeout, reason=reason)
        except TimeoutError:
            assert process is not None  # nobody is waited for without one
            async with asyncio.timeout(GONE_WITHIN):
                await process.stopped.wait()


def _means_something(noise: str, record: logging.LogRecord) -> bool:
    return noise not in str(record.msg)


def local_cluster(
    *,
    workers: int | None = None,
    regions: Sequence[str] | None = None,
    settings: Settings | None = None,
    host: str = LOOPBACK,
    scheduler_port: int = 0,
    dashboard_address: str | None = f"{LOOPBACK}:0",
    asynchronous: bool = False,
) -> SpecCluster:
    """Start a scheduler in this process and worker processes beside it, all on `host`.

    `workers`: default one per GPU, without a GPU one per core. `regions`: codes dealt out to the workers in turn, to
    try out placement on one machine; default is the configured region. A port of 0 picks a free one;
    `dashboard_address` None starts no dashboard. The workers end with this process, however it ends.

    Raises ValueError on a number of workers or a region that can't be, and CannotStart when the port is taken, when a
    worker does not come up, or when a script starts a grid while it is imported.
    """
    _refuse_while_imported()
    settings = settings or Settings()
    crew = Crew.of(workers, regions, settings)
    check_free(host, scheduler_port, "IDLEGRID_SCHEDULER_PORT")
    try:
        return SpecCluster(
            workers={
                local_name(index): _worker(index, region, settings, host, crew.gpus, crew.memory_limit)
                for index, region in enumerate(crew.regions)
            },
            scheduler=_scheduler(host, scheduler_port, dashboard_address),
            asynchronous=asynchronous,
            silence_logs=logging.ERROR,
            name="idlegrid",
        )
    except RuntimeError as error:
        raise not_ready(error) from None


@dataclass(frozen=True, slots=True)
class Crew:
    """How many workers a grid on this machine has, and what each may use."""

    regions: tuple[str, ...]
    """One for each worker."""
    gpus: int
    """Of this machine."""
    memory_limit: int
    """Bytes, of each worker."""

    @classmethod
    def of(cls, workers: int | None, regions: Sequence[str] | None, settings: Settings) -> Crew:
        """`workers`: default one per GPU, without a GPU one per core. Raises ValueError and UnknownRegionError."""
        gpus = nvml.device_get_count()
        count = gpus or os.cpu_count() or 1 if workers is None else workers
        if count < 1:
            raise ValueError(f"a grid needs at least 1 worker, not {count}")
        codes = [check_region(code) for code in regions or [settings.region]]
        share = int(psutil.virtual_memory().total * MEMORY_SHARE) // count
        return cls(tuple(codes[index % len(codes)] for index in range(count)), gpus, share)


def not_ready(error: RuntimeError) -> CannotStart:
    """What Dask's word for a start that failed means here."""
    return CannotStart(f"a worker process ended before it was ready; what it said stands above ({error})")


def _refuse_while_imported() -> None:
    """A script without a guard runs again in each process that it starts: end that process, instead of hanging."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(_GUARD)


def _scheduler(host: str, port: int, dashboard_address: str | None) -> dict[str, Any]:
    from ..scheduler_plugins.scheduler import GridScheduler  # brings the page, which no worker process needs

    options = {
        "host": host,
        "port": port,
        "dashboard": dashboard_address is not None,
        "dashboard_address": dashboard_address or f"{host}:0",
    }
    return {"cls": GridScheduler, "options": options}


def local_name(index: int) -> str:
    """Name of worker number `index` of a grid on this machine."""
    return f"local-{index}"


def local_donor_of(index: int, region: str, settings: Settings) -> Donor:
    """The donor that worker number `index` of a grid on this machine is."""
    gpu_model, gpu_memory_gb, gpu_count = visible_gpu()
    name = local_name(index)
    donor = settings.to_donor(
        id=name,
        gpu_model=gpu_model,
        gpu_memory_gb=gpu_memory_gb,
        gpu_count=gpu_count,
        supported_types=runnable_types(),
    )
    return replace(donor, name=name, region=region)


def worker_environment(index: int, gpus: int) -> dict[str, str]:
    """What the process of worker number `index` is told about its machine: one thread, one GPU."""
    return ONE_THREAD | ({"CUDA_VISIBLE_DEVICES": str(index % gpus)} if gpus else {})


def _worker(index: int, region: str, settings: Settings, host: str, gpus: int, memory_limit: int) -> dict[str, Any]:
    donor = local_donor_of(index, region, settings)
    options = {
        "name": donor.name,
        "nthreads": donor.limits.max_concurrent_jobs,
        "host": host,
        "dashboard": False,
        "memory_limit": memory_limit,
        "silence_logs": logging.ERROR,
        "env": worker_environment(index, gpus),
        "plugins": (DonorPlugin(donor), ChildManners()),
    }
    return {"cls": ModelNanny, "options": options}

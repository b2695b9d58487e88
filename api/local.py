"""A whole grid on this machine: the scheduler with our plugins and one worker process per core, or per GPU."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
from distributed import Nanny, SpecCluster
from distributed.diagnostics import nvml

from ..grid.config import Settings
from ..grid.job_types import job_types
from ..grid.regions import REGIONS
from ..scheduler_plugins.donor_plugin import DonorPlugin
from ..scheduler_plugins.machine import visible_gpu
from ..scheduler_plugins.scheduler import GridScheduler

LOOPBACK = "127.0.0.1"
# One thread per process: two pools of threads on the same cores wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def local_cluster(
    *,
    workers: int | None = None,
    regions: Sequence[str] | None = None,
    settings: Settings | None = None,
    scheduler_port: int = 0,
    dashboard_address: str | None = f"{LOOPBACK}:0",
    asynchronous: bool = False,
) -> SpecCluster:
    """Start a scheduler in this process and worker processes beside it, all on loopback.

    `workers`: default one per GPU, without a GPU one per core. `regions`: codes dealt out to the workers in turn, to
    try out placement on one machine; default is the configured region. A port of 0 picks a free one;
    `dashboard_address` None starts no dashboard.
    """
    settings = settings or Settings()
    gpus = nvml.device_get_count()
    count = workers or gpus or os.cpu_count() or 1
    if count < 1:
        raise ValueError(f"a grid needs at least 1 worker, not {count}")
    codes = list(regions or [settings.region])
    for code in codes:
        if code not in REGIONS:
            raise ValueError(f"unknown region {code!r}; the regions are {', '.join(REGIONS)}")
    scheduler = {
        "cls": GridScheduler,
        "options": {
            "host": LOOPBACK,
            "port": scheduler_port,
            "dashboard": dashboard_address is not None,
            "dashboard_address": dashboard_address or f"{LOOPBACK}:0",
        },
    }
    memory_limit = int(psutil.virtual_memory().total * 0.9) // count
    return SpecCluster(
        workers={
            f"local-{index}": _worker(index, codes[index % len(codes)], settings, gpus, memory_limit)
            for index in range(count)
        },
        scheduler=scheduler,
        asynchronous=asynchronous,
        silence_logs=logging.ERROR,
        name="idlegrid",
    )


def _worker(index: int, region: str, settings: Settings, gpus: int, memory_limit: int) -> dict[str, Any]:
    gpu_model, gpu_memory_gb, gpu_count = visible_gpu()
    name = f"local-{index}"
    donor = settings.to_donor(
        id=name,
        gpu_model=gpu_model,
        gpu_memory_gb=gpu_memory_gb,
        gpu_count=gpu_count,
        supported_types=frozenset(job_types()),
    )
    options = {
        "name": name,
        "nthreads": 1,
        "host": LOOPBACK,
        "dashboard": False,
        "memory_limit": memory_limit,
        "silence_logs": logging.ERROR,
        "env": ONE_THREAD | ({"CUDA_VISIBLE_DEVICES": str(index % gpus)} if gpus else {}),
        "plugins": (DonorPlugin(replace(donor, name=name, region=region)),),
    }
    return {"cls": Nanny, "options": options}

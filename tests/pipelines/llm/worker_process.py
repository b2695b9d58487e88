"""One Dask worker for one donor that takes LLM work: ``worker_process.py SCHEDULER DONOR``."""

import asyncio
import sys

from distributed import Worker

from idlegrid.grid.donors import Donor
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin


async def main(scheduler: str, donor_id: str) -> None:
    donor = Donor(id=donor_id, name=donor_id, supported_types=frozenset({"llm"}))
    worker = await Worker(
        scheduler, nthreads=1, dashboard=False, name=donor_id, plugins=[DonorPlugin(donor)], host="127.0.0.1"
    )
    await worker.finished()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

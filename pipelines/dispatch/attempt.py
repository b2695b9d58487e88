"""What Dask runs: one attempt, on the worker that placement chose."""

from __future__ import annotations

from distributed import get_worker

from .desk import desk
from .runner import Outcome
from .work_order import WorkOrder


class NotBegun(Exception):
    """The attempt never began here, so whoever holds the claim may give it back."""


def run(order: WorkOrder) -> str:
    """The Dask task. Gives the `Outcome` as a text; raises NotBegun."""
    outcome = desk(worker_id()).run(order)
    if outcome is Outcome.UNREACHED:
        raise NotBegun(f"attempt {order.name} could not reach the service from this worker")
    return outcome.value


def worker_id() -> str:
    """The donor's id of the Dask worker that runs this, else its name."""
    worker = get_worker()
    plugin = worker.plugins.get("idlegrid-donor")
    return str(plugin.donor.id if plugin is not None else worker.name)

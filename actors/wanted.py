"""Whether somebody still wants what a task of Dask computes. Dask itself lets a task that was cancelled run to its end.

A client that goes away has its task cancelled; without this its worker would go on for nobody, and take nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from ..grid.job_types import Cancelled


def _nothing() -> None:
    pass


def still_wanted() -> Callable[[], None]:
    """A check to be called between steps: raises Cancelled once the task that runs in this thread was cancelled.

    May be called from any thread, and never waits. Outside of a task there is nobody to cancel anything.
    """
    from distributed import get_worker

    try:
        worker = get_worker()
        key, tasks = worker.get_current_task(), worker.state.tasks
    except (ValueError, KeyError):
        return _nothing

    def check() -> None:
        task = tasks.get(key)
        if task is None or task.state == "cancelled":
            raise Cancelled

    return check

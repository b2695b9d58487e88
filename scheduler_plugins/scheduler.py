"""The scheduler of the grid: stock Dask, with the rules in the places where Dask decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Scheduler

from . import private_api
from .doors import open_doors
from .facts import KEY
from .lanes import ANNOTATION, TaskState
from .placer import OFFER_EVERY, Clock, utc_now
from .plugin import GridPlugin
from .roster import WorkerState
from .stealing import GridStealing


class GridMixin:
    """Overrides the few methods in which a Dask scheduler decides where a task goes. Tasks without our annotation
    are left alone.

    These are private API: `private_api.check` refuses a release of distributed in which they look different.
    """

    grid: GridPlugin

    def is_rootish(self: Any, ts: TaskState) -> bool:
        """Grid tasks never take Dask's short cut for root tasks, which looks at no restriction."""
        if ts.annotations and ANNOTATION in ts.annotations:
            return False
        return bool(super().is_rootish(ts))  # type: ignore[misc]

    def decide_worker_non_rootish(self: Any, ts: TaskState) -> WorkerState | None:
        """The best worker by the rule. (The stock method falls back to any worker when restrictions are loose.)"""
        grid: GridPlugin = self.grid
        if (seat := grid.offers.plan.pop(ts.key, None)) is not None:
            return grid.placer.confirm(seat, self.running)
        lane = grid.lane(ts)
        if lane is None:
            return super().decide_worker_non_rootish(ts)  # type: ignore[misc]
        if ts.state == "waiting" and grid.offers.must_queue(lane):
            return None
        base = super().valid_workers(ts) if lane.restrictions else None  # type: ignore[misc]
        ws = grid.placer.choose(ts.key, lane, base, self.running)
        if ws is None and base is not None and ts.loose_restrictions:
            ws = grid.placer.choose(ts.key, lane, None, self.running)
        return ws

    def valid_workers(self: Any, ts: TaskState) -> set[WorkerState] | None:
        """The workers that may take the task now. Never None, which means anywhere, for a grid task."""
        base = super().valid_workers(ts)  # type: ignore[misc]
        lane = self.grid.lane(ts)
        if lane is None:
            return base  # type: ignore[no-any-return]
        found: set[WorkerState] = self.grid.placer.eligible(ts.key, lane, base, self.running)
        if not found and base is not None and ts.loose_restrictions:
            return self.grid.placer.eligible(ts.key, lane, None, self.running)  # type: ignore[no-any-return]
        return found

    def stock_valid_workers(self: Any, ts: TaskState) -> set[WorkerState] | None:
        """The workers that Dask's own restrictions allow, None for all."""
        return super().valid_workers(ts)  # type: ignore[misc,no-any-return]

    def worker_objective(self: Any, ts: TaskState, ws: WorkerState) -> tuple[Any, ...]:
        """What Dask minimises: the score, negated."""
        lane = self.grid.lane(ts)
        if lane is None:
            return super().worker_objective(ts, ws)  # type: ignore[misc,no-any-return]
        return (-self.grid.placer.score(lane, ws), ws.nbytes)

    def stimulus_queue_slots_maybe_opened(self: Any, *, stimulus_id: str) -> None:
        """Where Dask refills freed threads from its own queue, the grid's waiting tasks get their offers."""
        super().stimulus_queue_slots_maybe_opened(stimulus_id=stimulus_id)  # type: ignore[misc]
        self.grid.offers.settle()

    def bulk_schedule_unrunnable_after_adding_worker(self: Any, ws: WorkerState) -> dict[Any, str]:
        """Stock tasks only: grid tasks get their offers in order, without a look at all of them."""
        if len(self.grid.lanes) == len(self.unrunnable):
            return {}
        with _without_grid_tasks(self):
            return super().bulk_schedule_unrunnable_after_adding_worker(ws)  # type: ignore[misc,no-any-return]

    def _check_unrunnable_task_timeouts(self: Any, *args: Any, **kwargs: Any) -> set[Any]:
        """Stock tasks only: to wait for a donor is what grid tasks do, and no reason to fail."""
        if len(self.grid.lanes) == len(self.unrunnable):
            return set()
        with _without_grid_tasks(self):
            return super()._check_unrunnable_task_timeouts(*args, **kwargs)  # type: ignore[misc,no-any-return]

    def heartbeat_worker(self: Any, *args: Any, address: str, metrics: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Facts and load arrive here: with the registration, then with every heartbeat."""
        answer: dict[str, Any] = super().heartbeat_worker(*args, address=address, metrics=metrics, **kwargs)  # type: ignore[misc]
        ws = self.workers.get(self.coerce_address(address, kwargs.get("resolve_address", True)))
        if ws is not None:
            self.grid.heard(ws, metrics.get(KEY))
        return answer

    def handle_worker_status_change(self: Any, status: Any, worker: Any, stimulus_id: str) -> None:
        """A worker that Dask pauses or closes takes no grid tasks either."""
        super().handle_worker_status_change(status, worker, stimulus_id)  # type: ignore[misc]
        ws = self.workers.get(worker) if isinstance(worker, str) else worker
        if ws is not None:
            self.grid.touch(ws)

    def handle_long_running(self: Any, key: Any, worker: str, *args: Any, **kwargs: Any) -> None:
        """A task that secedes gives its slot back, as it gives its thread back."""
        super().handle_long_running(key, worker, *args, **kwargs)  # type: ignore[misc]
        if (ws := self.workers.get(worker)) is not None:
            self.grid.touch(ws)


class GridScheduler(GridMixin, Scheduler):  # type: ignore[misc]
    """A stock scheduler with the grid's rules. Takes what `distributed.Scheduler` takes."""

    def __init__(self, *args: Any, clock: Clock = utc_now, offer_every: float = OFFER_EVERY, **kwargs: Any) -> None:
        """`clock` and `offer_every` (seconds, see `placer.OFFER_EVERY`) are for tests."""
        super().__init__(*args, **kwargs)
        attach(self, clock=clock, offer_every=offer_every)


def attach(scheduler: Scheduler, *, clock: Clock = utc_now, offer_every: float = OFFER_EVERY) -> GridPlugin:
    """Give a scheduler the grid's rules, if it hasn't got them; it may run already. Returns its `GridPlugin`.

    Raises RuntimeError on a release of distributed whose private API isn't the one that the rules were written for.
    """
    known = getattr(scheduler, "grid", None)
    if isinstance(known, GridPlugin):
        return known
    private_api.check()
    if not isinstance(scheduler, GridMixin):
        cls = type(scheduler)
        scheduler.__class__ = type(f"Grid{cls.__name__}", (GridMixin, cls), {})
    plugin = scheduler.grid = GridPlugin(scheduler, clock=clock, offer_every=offer_every)
    stealing = scheduler.extensions.get("stealing")
    if stealing is not None:
        stealing.__class__ = GridStealing
    _rebind(scheduler, GridMixin, scheduler)
    _rebind(scheduler, GridStealing, stealing)
    scheduler.add_plugin(plugin)
    open_doors(plugin)
    for ws in scheduler.workers.values():
        plugin.heard(ws, (ws.metrics or {}).get(KEY))
    return plugin


def _rebind(scheduler: Scheduler, cls: type, owner: Any) -> None:
    """Let the handlers that were bound before the classes changed lead to the new methods."""
    for table in (scheduler.handlers, scheduler.stream_handlers):
        for op, handler in table.items():
            if getattr(handler, "__self__", None) is owner and handler.__name__ in vars(cls):
                table[op] = getattr(owner, handler.__name__)


@contextmanager
def _without_grid_tasks(scheduler: Any) -> Iterator[None]:
    """Hide the grid's waiting tasks from a stock method that looks at all tasks in ``no-worker``."""
    everything, lanes = scheduler.unrunnable, scheduler.grid.lanes
    stock = scheduler.unrunnable = {ts: since for ts, since in everything.items() if ts.key not in lanes}
    try:
        yield
    finally:
        scheduler.unrunnable = {ts: since for ts, since in everything.items() if ts.key in lanes or ts in stock}

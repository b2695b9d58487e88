"""Work stealing that asks the same rule: a thief must be eligible, have a free slot, and be worth the move."""

from __future__ import annotations

from typing import Any

from distributed.stealing import _WORKER_STATE_CONFIRM, WorkStealing

from .roster import WorkerState

TaskState = Any


def worth_moving(*, work: float, wait_here: float, wait_there: float, score_here: float, score_there: float) -> bool:
    """Whether a task should move, all times in seconds: it must gain more time there than it loses in quality.

    The time until it would be done, divided by the score, has to be smaller: to a donor of equal or better score it
    goes when it is done sooner there, to one of half the score when that halves the time.
    """
    if score_there <= 0.0:
        return False
    return (wait_there + work) * score_here < (wait_here + work) * score_there


class GridStealing(WorkStealing):  # type: ignore[misc]
    """Stock stealing, except for what is stolen of grid tasks and who may have it. A grid actor is never moved."""

    def _get_thief(
        self,
        scheduler: Any,
        ts: TaskState,
        potential_thieves: set[WorkerState],
        *,
        occupancies: dict[WorkerState, float],
    ) -> WorkerState | None:
        grid = self.scheduler.grid
        lane = grid.lane(ts)
        if lane is None:
            return super()._get_thief(scheduler, ts, potential_thieves, occupancies=occupancies)
        victim = ts.processing_on
        if ts.actor or victim is None:
            return None
        thieves = (scheduler.valid_workers(ts) & potential_thieves) - {victim}
        if not thieves:
            return None
        worth = grid.placer.worth
        thief = max(thieves, key=lambda ws: (worth(lane, ws), ws.address))
        work = scheduler._get_prefix_duration(ts.prefix)
        moves = worth_moving(
            work=work,
            wait_here=max(0.0, self._combined_occupancy(victim, occupancies=occupancies) / victim.nthreads - work),
            wait_there=max(0.0, self._combined_occupancy(thief, occupancies=occupancies) / thief.nthreads)
            + scheduler.get_comm_cost(ts, thief),
            score_here=worth(lane, victim),
            score_there=worth(lane, thief),
        )
        return thief if moves else None

    def _add_to_in_flight(self, ts: TaskState, info: Any) -> None:
        super()._add_to_in_flight(ts, info)
        self.scheduler.grid.inbound(info["thief"], +1)

    def _remove_from_in_flight(self, ts: TaskState) -> Any:
        info = super()._remove_from_in_flight(ts)
        if info is not None:
            self.scheduler.grid.inbound(info["thief"], -1)
        return info

    def move_task_confirm(self, *, key: Any, state: str, stimulus_id: str, worker: str | None = None) -> None:
        grid = self.scheduler.grid
        ts = self.scheduler.tasks.get(key)
        info = self.in_flight.get(ts)
        if info is None or info["stimulus_id"] != stimulus_id:
            super().move_task_confirm(key=key, state=state, stimulus_id=stimulus_id, worker=worker)
            return
        if state in _WORKER_STATE_CONFIRM and not grid.may_receive(ts, info["thief"]):
            state = None  # type: ignore[assignment]  # the stock code takes an unknown state for: decide anew where it goes
        super().move_task_confirm(key=key, state=state, stimulus_id=stimulus_id, worker=worker)
        if ts.processing_on is info["thief"]:
            grid.moved(ts, info["thief"])

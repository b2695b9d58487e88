"""How the grid is asked: handlers on the scheduler, a route of JSON and a page on its dashboard's server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from distributed.http.utils import RequestHandler

from ..grid.reliability import History
from .donor_plugin import CONTROL, check_action
from .lanes import Key
from .page import show_page
from .plugin import GridPlugin
from .state import grid_state
from .why import grid_explain, grid_why

_PATIENCE = 10.0
"""Seconds that a worker has to answer an order."""


def open_doors(grid: GridPlugin) -> None:
    """Make the grid answer: ``client.scheduler.grid_state()``, ``…grid_why(key=)``, ``…grid_explain(ask=, key=)``,
    ``…grid_control(donor=, action=)``, ``…grid_histories(donors=, usual=, blocked=)``, which tells what the store
    knows, and ``…grid_deployed(holder=, deployments=)``, with which a process tells which language models it serves.
    """
    scheduler = grid.scheduler

    async def control(donor: str, action: str) -> dict[str, Any]:
        return await grid_control(grid, donor, action)

    def state() -> dict[str, Any]:
        return grid_state(grid)

    def why(key: Key) -> dict[str, Any]:
        return grid_why(grid, key)

    def explain(ask: dict[str, Any], key: str) -> dict[str, Any]:
        return grid_explain(grid, ask, key)

    def histories(donors: dict[str, dict[str, Any]], usual: dict[str, float], blocked: Sequence[str] = ()) -> None:
        grid.bar(blocked)
        grid.told({donor: History.from_wire(told) for donor, told in donors.items()}, usual)

    def deployed(holder: str, deployments: list[dict[str, Any]]) -> dict[str, Any]:
        grid.deployed.tell(holder, deployments, grid.now)
        return {}

    scheduler.handlers.update(
        grid_state=state,
        grid_why=why,
        grid_explain=explain,
        grid_control=control,
        grid_histories=histories,
        grid_deployed=deployed,
    )
    # Whatever prefix the dashboard was given: Dask doesn't remember it.
    scheduler.http_application.add_handlers(r".*", [(r"(?:/.*)?/grid-api", GridApi, {"dask_server": scheduler})])
    show_page(scheduler)


async def grid_control(grid: GridPlugin, donor: str, action: str) -> dict[str, Any]:
    """Tell a donor's worker to ``pause``, ``resume`` or ``drain``; true for the scheduler when this returns.

    Returns the worker's row of `grid_state`. Raises LookupError for a donor that isn't here, ValueError for another
    action and TimeoutError when the worker doesn't answer.
    """
    check_action(action)
    seat = grid.roster.get(donor)
    if seat is None:
        near = get_close_matches(donor, [other.donor.id for other in grid.roster], n=1)
        raise LookupError(f"donor {donor!r} isn't here{f'; did you mean {near[0]!r}?' if near else ''}")
    rpc = grid.scheduler.rpc(seat.ws.address)
    statement = await asyncio.wait_for(getattr(rpc, CONTROL)(action=action), _PATIENCE)
    grid.heard(seat.ws, statement)
    return next(row for row in grid_state(grid)["workers"] if row["id"] == donor)


class GridApi(RequestHandler):  # type: ignore[misc]
    """``GET /grid-api``: the document of `grid_state`."""

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.write(grid_state(self.server.grid))

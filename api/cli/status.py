"""`idlegrid status`: the grid on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .connect import Address, connected
from .output import Json, console, print_json, print_table

_STYLES = {"online": "green", "busy": "yellow", "paused": "dim", "draining": "red", "offline": "dim"}


def status(scheduler: Address = None, as_json: Json = False) -> None:
    """Show the workers of a running grid: region, state and why, score, what runs and what waits."""
    with connected(scheduler) as client:
        state = client.sync(client.scheduler.grid_state)
        dashboard = client.dashboard_link
    if as_json:
        print_json(state)
        return
    print_table("", ["worker", "region", "state", "why", "score", "running", "models"], map(_row, state["workers"]))
    waiting = {name: count for name, count in state.get("waiting_by_type", {}).items() if count}
    words = ", ".join(f"{count} {name}" for name, count in sorted(waiting.items())) or "nothing"
    console.print(f"\nwaiting: {words}")
    if dashboard:
        console.print(f"page:    {dashboard.replace('/status', '/grid')}")


def _row(worker: Mapping[str, Any]) -> list[str]:
    state = str(worker["state"])
    style = _STYLES.get(state, "")
    return [
        str(worker["name"]),
        str(worker["region"]),
        f"[{style}]{state}[/]" if style else state,
        str(worker.get("reason") or ""),
        f"{worker['score']:.2f}" if worker.get("score") is not None else "-",
        str(worker.get("running", 0)),
        ", ".join(model.rstrip("/").rsplit("/", 1)[-1] for model in worker.get("loaded", ())),
    ]

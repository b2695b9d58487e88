"""`idlegrid status`: the grid on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from .options import Address, ConfigFile
from .output import Json, print_json, print_table, say, tell
from .settings import scheduler_address, settings

_STYLES = {"online": "green", "busy": "yellow", "paused": "dim", "draining": "red", "offline": "dim"}


def status(scheduler: Address = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the workers of a running grid.

    Region, state and why, reliability score, models in memory; what runs and what waits.
    """
    from ..links import ask, connect, page_of

    with connect(scheduler_address(scheduler, settings(config)), set_as_default=False) as client:
        state = ask(client, "grid_state")
        page = page_of(client.dashboard_link)
    if as_json:
        print_json(state | {"page": page})
        return
    columns = ("worker", "region", "state", "why", "score", "running", "models")
    print_table(columns, map(_row, state["workers"]), whole=("worker", "region", "state"))
    say("")
    for label, counts in (("running", state["running_by_type"]), ("waiting", state["waiting_by_type"])):
        words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)
        say(f"{label}: {words or 'nothing'}")
    if page:
        say(f"page:    {page}")
    for line in problems(state):
        tell(line, label="warning:", style="yellow")


def problems(state: Mapping[str, Any]) -> list[str]:
    """What somebody must mend: a rule that fails, workers without our plugin."""
    told = [str(state["problem"])] if state.get("problem") else []
    strangers = state.get("without_facts") or ()
    if strangers:
        told.append(f"no grid work goes to workers that run without our plugin: {', '.join(strangers)}")
    return told


def _row(worker: Mapping[str, Any]) -> list[object]:
    state = str(worker["state"])
    return [
        worker["name"],
        worker["region"],
        Text(state, style=_STYLES.get(state, "")),
        worker["reason"] or "",
        f"{worker['score']:.2f}",
        worker["running"],
        ", ".join(model.rstrip("/").rsplit("/", 1)[-1] for model in worker["loaded"]),
    ]

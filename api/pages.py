"""The grid as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLOURS = {"online": "#2e9e5b", "busy": "#d99a1c", "paused": "#8a8f98", "draining": "#b8604d", "offline": "#c8ccd2"}
_CELL = "padding:2px 12px 2px 0;text-align:left;white-space:nowrap"
SHOWN = 50
"""Workers listed in full; the rest is counted."""


def grid_html(address: str, dashboard: str | None, state: Mapping[str, Any]) -> str:
    """A card: what the grid is, where its page is, and a row for each worker. `state` is the scheduler's document."""
    workers: Sequence[Mapping[str, Any]] = state["workers"]
    regions = sorted({str(worker["region"]) for worker in workers})
    link = f'<a href="{escape(dashboard)}" target="_blank">{escape(dashboard)}</a>' if dashboard else "no dashboard"
    head = (
        f"<b>idlegrid</b> · {len(workers)} workers in {len(regions)} regions · <code>{escape(address)}</code> · {link}"
    )
    rows = "".join(_row(worker) for worker in workers[:SHOWN])
    more = f"<div>… and {len(workers) - SHOWN} more</div>" if len(workers) > SHOWN else ""
    titles = "".join(
        f'<th style="{_CELL}">{title}</th>' for title in ("worker", "region", "state", "why", "score", "runs", "models")
    )
    return (
        '<div style="border-left:4px solid #2e9e5b;padding:6px 12px;font-family:sans-serif;font-size:13px">'
        f'<div style="margin-bottom:6px">{head}</div>'
        f"<details{' open' if len(workers) <= 12 else ''}><summary>Workers</summary>"
        f'<table style="border-collapse:collapse"><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>{more}'
        f"</details>{_waiting(state)}</div>"
    )


def _row(worker: Mapping[str, Any]) -> str:
    colour = _COLOURS.get(str(worker["state"]), "#c8ccd2")
    dot = f'<span style="color:{colour}">●</span> '
    cells = [
        escape(str(worker["name"])),
        escape(str(worker["region"])),
        dot + escape(str(worker["state"])),
        escape(str(worker.get("reason") or "")),
        f"{float(worker['score']):.2f}" if worker.get("score") is not None else "",
        str(worker.get("running", 0)),
        escape(", ".join(_short(model) for model in worker.get("loaded", ()))),
    ]
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def _waiting(state: Mapping[str, Any]) -> str:
    waiting: Mapping[str, int] = state.get("waiting_by_type", {})
    if not any(waiting.values()):
        return ""
    words = ", ".join(f"{count} {escape(name)}" for name, count in sorted(waiting.items()) if count)
    return f'<div style="margin-top:6px">waiting: {words}</div>'

"""The grid as HTML for a notebook: a card that fits light and dark themes and needs no script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

COLOURS = {"online": "#2e9e5b", "busy": "#d99a1c", "paused": "#8a8f98", "draining": "#b8604d", "offline": "#c8ccd2"}
SHOWN = 50
"""Workers listed in full; the rest is counted."""
UNFOLDED = 12
"""Up to so many workers the list is open at first."""
_LINE = "1px solid rgba(128,128,128,.3)"
_CELL = "padding:3px 14px 3px 0;text-align:left;white-space:nowrap;background:none;border:none"
_FAINT = "opacity:.65"


def grid_html(address: str, page: str | None, state: Mapping[str, Any]) -> str:
    """The card: what the grid is, where its page is, and a row for each worker. `state` is the scheduler's document."""
    workers: Sequence[Mapping[str, Any]] = state["workers"]
    regions = sorted({str(worker["region"]) for worker in workers})
    link = f'<a href="{escape(page)}" target="_blank" style="color:inherit">{escape(page)}</a>' if page else "none"
    facts = (
        ("Scheduler", f"<code>{escape(address)}</code>"),
        ("Page", link),
        ("Workers", _counted(Counter(str(worker["state"]) for worker in workers), "none", dots=True)),
        ("Regions", escape(", ".join(regions)) or "none"),
        ("Running", _counted(state.get("running_by_type", {}), "nothing")),
        ("Waiting", _counted(state.get("waiting_by_type", {}), "nothing")),
    )
    return (
        f'<div style="display:inline-block;border:{_LINE};border-left:5px solid {COLOURS["online"]};border-radius:4px;'
        'padding:10px 16px;font-family:system-ui,sans-serif;font-size:13px;line-height:1.5">'
        '<div style="font-size:16px;font-weight:600;margin-bottom:4px">Grid</div>'
        f"{_facts(facts)}{_warnings(state)}{_workers(workers)}</div>"
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr style="background:none"><td style="{_CELL};{_FAINT}">{name}</td><td style="{_CELL}">{value}</td></tr>'
        for name, value in facts
    )
    return f'<table style="border-collapse:collapse;font-size:13px;margin:0">{rows}</table>'


def _workers(workers: Sequence[Mapping[str, Any]]) -> str:
    if not workers:
        return ""
    titles = ("worker", "region", "state", "why", "score", "runs", "models")
    head = "".join(
        f'<th style="{_CELL};{_FAINT};font-weight:400;border-bottom:{_LINE}">{title}</th>' for title in titles
    )
    rows = "".join(_row(worker) for worker in workers[:SHOWN])
    more = f'<div style="{_FAINT}">… and {len(workers) - SHOWN} more</div>' if len(workers) > SHOWN else ""
    return (
        f'<details{" open" if len(workers) <= UNFOLDED else ""} style="margin-top:6px">'
        '<summary style="cursor:pointer;font-weight:600">Workers</summary>'
        '<table style="border-collapse:collapse;font-size:13px;margin:4px 0 0 0">'
        f'<thead><tr style="background:none">{head}</tr></thead><tbody>{rows}</tbody></table>{more}</details>'
    )


def _row(worker: Mapping[str, Any]) -> str:
    cells = (
        f"<b>{escape(str(worker['name']))}</b>",
        escape(str(worker["region"])),
        _dot(str(worker["state"])),
        escape(str(worker.get("reason") or "")),
        _bar(float(worker["score"])) if worker.get("score") is not None else "",
        f"{int(worker.get('running', 0))}",
        escape(", ".join(short(model) for model in worker.get("loaded", ()))),
    )
    return '<tr style="background:none">' + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _dot(state: str, count: int | None = None) -> str:
    colour = COLOURS.get(state, COLOURS["offline"])
    text = escape(state) if count is None else f"{count} {escape(state)}"
    return f'<span style="color:{colour}">●</span> {text}'


def _bar(score: float) -> str:
    """A reliability score, 0 to 1, as a number and a bar."""
    return (
        f'{score:.2f} <span style="display:inline-block;width:48px;height:6px;border-radius:3px;'
        'background:rgba(128,128,128,.25);vertical-align:middle">'
        f'<span style="display:block;width:{100 * min(1.0, max(0.0, score)):.0f}%;height:6px;border-radius:3px;'
        f'background:{COLOURS["online"]}"></span></span>'
    )


def _counted(counts: Mapping[str, int], nothing: str, *, dots: bool = False) -> str:
    shown = sorted((name, count) for name, count in counts.items() if count)
    if dots:
        return " &nbsp; ".join(_dot(name, count) for name, count in shown) or nothing
    return ", ".join(f"{count} {escape(name)}" for name, count in shown) or nothing


def _warnings(state: Mapping[str, Any]) -> str:
    """What somebody must mend: a rule that fails, workers without our plugin."""
    told = [str(state["problem"])] if state.get("problem") else []
    strangers = state.get("without_facts") or ()
    if strangers:
        told.append(f"no grid work goes to workers that run without our plugin: {', '.join(strangers)}")
    return "".join(f'<div style="color:{COLOURS["draining"]}">⚠ {escape(line)}</div>' for line in told)


def short(model: str) -> str:
    """The last part of a model's id or folder."""
    return model.rstrip("/").rsplit("/", 1)[-1]

"""The page's words and table cells as HTML. Whatever a donor or a client may have written is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .state import WEIGHTS

STATES: Mapping[str, str] = {"online": "#2e9e5b", "busy": "#d99a1c", "paused": "#8a8f98", "draining": "#b8604d"}
"""State → colour, in the order in which they are stacked."""
TERMS: Mapping[str, str] = {
    "success": "#2f6db3",
    "stability": "#3ba7a0",
    "latency": "#8e6bbf",
    "seniority": "#c2a14d",
}
"""Term of the reliability score → colour."""
COLUMNS: Mapping[str, tuple[str, int]] = {
    "region": ("Region", 90),
    "name": ("Worker", 120),
    "state": ("State", 80),
    "reason": ("Why", 220),
    "score": ("Reliability", 70),
    "terms": ("Score in its terms", 220),
    "running": ("Running", 70),
    "hour": ("Last hour", 70),
    "models": ("Models loaded", 150),
    "gpu": ("GPU", 130),
}
"""Column → its title and its width, relative to the others."""
UNSORTABLE = frozenset({"terms"})
_BAR = 100.0
"""Per cent of the cell that a score of 1 fills."""


def tiles(state: Mapping[str, Any]) -> str:
    """The totals at the top."""
    workers: Sequence[Mapping[str, Any]] = state["workers"]
    counts = {word: sum(worker["state"] == word for worker in workers) for word in STATES}
    words = " · ".join(f"{_dot(STATES[word])}{count} {word}" for word, count in counts.items() if count)
    slots = sum(worker["max_concurrent_jobs"] for worker in workers)
    running, waiting = sum(state["running_by_type"].values()), sum(state["waiting_by_type"].values())
    by_type = " · ".join(f"{count:,} {escape(type_)}" for type_, count in state["waiting_by_type"].items())
    cells = [
        ("Workers", f"{len(workers):,}", words or "nobody has joined yet"),
        ("Regions", str(len({worker["region"] for worker in workers})), "with workers"),
        ("Running", f"{running:,}", f"of {slots:,} slots"),
        ("Waiting", f"{waiting:,}", by_type or "nothing waits"),
    ]
    boxes = "".join(
        '<div style="flex:1;background:#fff;border:1px solid #e3e6ea;border-radius:8px;padding:10px 16px">'
        f'<div style="font-size:12px;color:#6b7280;text-transform:uppercase;letter-spacing:.05em">{title}</div>'
        f'<div style="font-size:26px;font-weight:600;color:#1f2937;line-height:1.25">{number}</div>'
        f'<div style="font-size:12px;color:#4b5563;white-space:nowrap">{note}</div></div>'
        for title, number, note in cells
    )
    return f'<div style="display:flex;gap:12px;{_FONT}">{boxes}</div>'


def legend() -> str:
    """What the colours of the score mean, with what each term counts."""
    words = "".join(
        f'<span style="margin-right:16px">{_dot(colour)}{term} {WEIGHTS[term]:.0%}</span>'
        for term, colour in TERMS.items()
    )
    return f'<div style="{_FONT};font-size:12px;color:#4b5563">Reliability = {words}</div>'


def notes(state: Mapping[str, Any]) -> str:
    """What an operator should know at once; empty when all is well."""
    lines = []
    if state["problem"]:
        text = f"The placement rule failed: {state['problem']}. Nobody gets the work it failed for."
        lines.append(note(text, bad=True))
    if strangers := state["without_facts"]:
        some = ", ".join(strangers[:5]) + (" …" if len(strangers) > 5 else "")
        lines.append(note(f"{len(strangers)} workers without facts get no grid work: {some}"))
    if not state["workers"]:
        join = f"dask worker {state['address']} --preload idlegrid.scheduler_plugins.preload"
        lines.append(note("No workers yet. A donor joins with:", code=join))
    return "".join(lines)


def note(text: str, *, bad: bool = False, code: str = "") -> str:
    """One line that stands out."""
    colour, back = ("#b42318", "#fef3f2") if bad else ("#92610a", "#fffaeb")
    tail = f' <code style="color:#1f2937">{escape(code)}</code>' if code else ""
    box = f"border-left:4px solid {colour};background:{back};padding:8px 12px;margin:4px 0;color:{colour}"
    return f'<div style="{_FONT};font-size:13px;{box}">{escape(text)}{tail}</div>'


def amounts(running: int, waiting: int) -> str:
    """What runs and waits, in words; text, not HTML."""
    return ", ".join(f"{count:,} {word}" for count, word in ((running, "running"), (waiting, "waiting")) if count)


def table(workers: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The cells of all workers, column by column."""
    rows = [_cells(worker) for worker in workers]
    return {name: [row[name] for row in rows] for name in COLUMNS}


def _cells(worker: Mapping[str, Any]) -> dict[str, str]:
    reason = worker["reason"] or ("" if worker["state"] == "online" else worker["state"])
    until = f", until {worker['until'][:16].replace('T', ' ')} UTC" if worker["until"] else ""
    cap = worker["max_jobs_per_hour"]
    models = ", ".join(model.rstrip("/").rsplit("/", 1)[-1] for model in worker["loaded"])
    return {
        "region": escape(worker["region"]),
        "name": f'<span title="{escape(worker["id"])}">{escape(worker["name"])}</span>',
        "state": f"{_dot(STATES[worker['state']])}{worker['state']}",
        "reason": _titled(reason + until),
        "score": f"{worker['score']:.3f}",
        "terms": _stack(worker["terms"]),
        "running": f"{worker['running']} of {worker['max_concurrent_jobs']}",
        "hour": f"{worker['started_last_hour']} of {cap}" if cap else str(worker["started_last_hour"]),
        "models": _titled(models),
        "gpu": _titled(_gpu(worker)),
    }


def _gpu(worker: Mapping[str, Any]) -> str:
    if not worker["gpu_memory_gb"]:
        return "–"
    return f"{worker['gpu_model']}, {worker['gpu_memory_used_gb']:.1f} of {worker['gpu_memory_gb']:.0f} GB"


def _stack(terms: Mapping[str, float]) -> str:
    parts = "".join(
        f'<span title="{term} {terms[term]:.2f}" style="display:inline-block;height:12px;background:{colour};'
        f'width:{terms[term] * WEIGHTS[term] * _BAR:.1f}%"></span>'
        for term, colour in TERMS.items()
    )
    bar = f'<div style="display:flex;width:100%;background:#eef0f3">{parts}</div>'
    return f'<div style="display:flex;align-items:center;height:100%">{bar}</div>'


def _titled(text: str) -> str:
    return f'<span title="{escape(text)}">{escape(text)}</span>'


def _dot(colour: str) -> str:
    return (
        f'<span style="display:inline-block;width:9px;height:9px;border-radius:50%;background:{colour};'
        'margin-right:6px"></span>'
    )


_FONT = "font-family:Helvetica,Arial,sans-serif"

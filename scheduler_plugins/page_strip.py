"""The block-coverage strip of the page, as HTML: rows are workers, columns are blocks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PHASES: Mapping[str, str] = {"ready": "#2e9e5b", "loading": "#d99a1c", "placing": "#c8ccd2"}
"""Phase → colour. Any other phase is shown as one that ends."""
ENDS, NOBODY, EMPTY = "#b8604d", "#d92d20", "#f1f3f5"
MOST_MARKS = 16
"""Numbers over the columns at most."""
_NAME = 170
"""Pixels for the name of a worker."""
_FONT = "font-family:Helvetica,Arial,sans-serif;font-size:12px;color:#1f2937"


def strips(state: Mapping[str, Any]) -> str:
    """All deployments of a document of `grid_state`; empty when nothing is deployed."""
    names = {worker["id"]: str(worker["name"]) for worker in state["workers"]}
    told = [_deployment(one, names) for one in state.get("deployments", ())]
    if not told:
        return ""
    words = "".join(_dot(colour, phase) for phase, colour in (*PHASES.items(), ("ending", ENDS), ("nobody", NOBODY)))
    head = '<div style="font-size:13px;font-weight:600;color:#4b5563;margin:6px 0 2px">Models and their blocks'
    return f'<div style="{_FONT}">{head}<span style="font-weight:400;margin-left:18px">{words}</span></div>' + (
        "".join(told) + "</div>"
    )


def _deployment(told: Mapping[str, Any], names: Mapping[str, str]) -> str:
    layers = told["num_layers"] or 0
    missing = {layer for first, stop in told["missing"] for layer in range(first, stop)}
    lines = [_line(_name(row["donor_id"], names), _cells(row)) for row in told["strip"]]
    if missing:
        cells = [NOBODY if layer in missing else "" for layer in range(layers)]
        lines.append(_line(f'<span style="color:{NOBODY}">nobody serves</span>', _marks(cells)))
    why = f'<span style="color:#92610a;margin-left:12px">{escape(told["why"])}</span>' if told["why"] else ""
    title = (
        f"<b>{escape(told['model'].rstrip('/').rsplit('/', 1)[-1])}</b>"
        f'<span style="color:#4b5563;margin-left:12px">{told["ready"]} of {told["replicas"]} replicas serve</span>{why}'
    )
    box = "border:1px solid #e3e6ea;border-radius:8px;padding:8px 16px;margin:6px 0;background:#fff"
    return f'<div style="{box}"><div style="margin-bottom:4px">{title}</div>{_ruler(layers)}{"".join(lines)}</div>'


def _name(donor_id: str, names: Mapping[str, str]) -> str:
    shown = names.get(donor_id, donor_id)
    return f'<span title="{escape(donor_id)}">{escape(shown)}</span>' if donor_id else "<i>a worker is looked for</i>"


def _line(name: str, cells: str) -> str:
    box = f"width:{_NAME}px;flex:none;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
    return f'<div style="display:flex;align-items:center;height:18px"><div style="{box}">{name}</div>{cells}</div>'


def _cells(row: Mapping[str, Any]) -> str:
    if not row["phases"]:  # nobody knows yet how many blocks there are
        return _marks([_colour(row["phase"])])
    return _marks([_colour(phase) if phase else "" for phase in row["phases"]])


def _marks(colours: Sequence[str]) -> str:
    marks = "".join(f'<div style="flex:1;height:12px;background:{colour or EMPTY}"></div>' for colour in colours)
    return f'<div style="display:flex;flex:1;gap:2px">{marks}</div>'


def _ruler(layers: int) -> str:
    """The numbers of the blocks, as many as there is room for."""
    if not layers:
        return ""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000, layers) if layers <= step * MOST_MARKS)
    numbers = "".join(
        f'<div style="flex:1;color:#6b7280;width:0;white-space:nowrap">{layer if layer % step == 0 else ""}</div>'
        for layer in range(layers)
    )
    return _line(
        '<span style="color:#6b7280">block</span>', f'<div style="display:flex;flex:1;gap:2px">{numbers}</div>'
    )


def _colour(phase: str) -> str:
    return PHASES.get(phase, ENDS)


def _dot(colour: str, word: str) -> str:
    box = f"display:inline-block;width:12px;height:9px;background:{colour};margin:0 6px 0 12px"
    return f'<span style="{box}"></span>{word}'

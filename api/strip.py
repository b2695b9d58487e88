"""The block-coverage strip in plain text: rows are workers, columns are blocks. Readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..grid.deployments import HeldLayers, missing_layers, strip

MARKS: Mapping[str, str] = {"ready": "█", "loading": "▒", "placing": "░", "": "·"}
OTHER, NOBODY = "▚", "!"
LEGEND = "█ serves   ▒ loads   ░ is sought   ▚ ends   · not here   ! nobody"
SPEEDS = "ms: one token in one layer; measured by steps, probed by a trial, or presumed"
"""What is under the marks where speeds stand beside them."""
_NAME = 16
"""Columns for a worker's name, at most."""
_SOUGHT = "(sought)"
_WIDEST = 3
"""Characters of a mark, at most."""


def strip_lines(deployment: Mapping[str, Any], width: int = 80) -> list[str]:
    """The strip of one deployment, as the service tells of it; no line is longer than `width`."""
    return lines_of([_held(part) for part in deployment["coverage"]], deployment["num_layers"], width)


def lines_of(coverage: Sequence[HeldLayers], layers: int | None, width: int = 80) -> list[str]:
    """The strip of a model with so many layers (None: nobody knows); no line is longer than `width`."""
    rows, gaps = strip(coverage, layers), missing_layers(coverage, layers)
    if not rows and not gaps:
        return []
    name = min(_NAME, max([len(row.donor_id or _SOUGHT) for row in rows] + [len("nobody")]))
    if not layers:
        return [f"  {_short(row.donor_id, name)}  {MARKS.get(row.phase, OTHER)}  whole model" for row in rows]
    told = {held.donor_id: _speed(held) for held in coverage if held.layer_ms is not None}
    room = width - name - 4
    wide = max(map(len, told.values()), default=-2) + 2
    if room - wide < layers:
        told, wide = {}, 0  # marks first
    scale = Scale.of(layers, room - wide)
    lines = [f"  {'block':<{name}}  {scale.ruler()}"]
    lines += [
        f"  {_short(row.donor_id, name)}  {scale.marks(row.phases)}  {told.get(row.donor_id, '')}".rstrip()
        for row in rows
    ]
    if gaps:
        missing = scale.gaps([any(layer in gap for gap in gaps) for layer in range(layers)])
        lines.append(f"  {_short('nobody', name)}  {missing}")
    if scale.each > 1:
        lines.append(f"  {'':<{name}}  each mark is {scale.each} blocks")
    return lines


@dataclass(frozen=True, slots=True)
class Scale:
    """How blocks become marks."""

    layers: int
    each: int
    """Blocks of a mark."""
    wide: int
    """Characters of a mark."""

    @classmethod
    def of(cls, layers: int, width: int) -> Scale:
        """For so many blocks in so many characters."""
        each = -(-layers // max(1, width))
        return cls(layers, each, max(1, min(_WIDEST, width // -(-layers // each))))

    def marks(self, phases: Sequence[str]) -> str:
        """That of the phase which all blocks of a mark have, else of one that is not there yet."""
        marks = []
        for part in self._parts():
            held = {phases[layer] for layer in part}
            [only] = held if len(held) == 1 else [next(iter(sorted(held - {"", "ready"})), "loading")]
            marks.append(MARKS.get(only, OTHER) * self.wide)
        return "".join(marks)

    def gaps(self, missing: Sequence[bool]) -> str:
        """Marks where nobody serves."""
        marks = (NOBODY if any(missing[layer] for layer in part) else " " for part in self._parts())
        return "".join(mark * self.wide for mark in marks).rstrip()

    def ruler(self) -> str:
        """Numbers of blocks over their marks, as many as there is room for."""
        step = {1: 10, 2: 5}.get(self.wide, 1)
        firsts = [part.start for part in self._parts()][::step]
        return "".join(str(first).ljust(step * self.wide) for first in firsts).rstrip()

    def _parts(self) -> list[range]:
        """The blocks of each mark."""
        return [range(at, min(self.layers, at + self.each)) for at in range(0, self.layers, self.each)]


def _held(part: Mapping[str, Any]) -> HeldLayers:
    speed = part.get("layer_ms"), part.get("speed", "")  # an earlier version tells none
    return HeldLayers(part["worker_id"], part["first"], part["stop"], part["phase"], part["replica"], *speed)


def _speed(held: HeldLayers) -> str:
    return f"{held.layer_ms:.2g} ms {held.speed}"


def _short(donor_id: str, width: int) -> str:
    name = donor_id or _SOUGHT
    return f"{name[: width - 1]}…" if len(name) > width else f"{name:<{width}}"

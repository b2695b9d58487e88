"""Which donors may take a stage now, and what each brings: from the scheduler's own rules and its document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...grid.jobs import Ask
from ...grid.layers.capacity import LayerDonor
from ...grid.layers.presumed import presumed_layer_rate
from ...grid.verdicts import Reason
from .chain_plan import Offer
from .link import GridLink

UNLIMITED = 2**50
"""Bytes: of a worker that was given no limit."""
SPARED = 0.1
"""Share of a worker's free main memory that is left for what grows."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The donors, as the grid knew them at one moment."""

    offers: tuple[Offer, ...]
    """Those who would take the ask, best first."""
    rows: Mapping[str, Mapping[str, Any]]
    """All, by id: see `grid_state`."""
    device: str
    layer_bytes: int

    def of(self, donor_id: str, held: int) -> Offer | None:
        """A donor that holds a stage of so many bytes, as if it didn't. None: it is not here."""
        row = self.rows.get(donor_id)
        if row is None:
            return None
        found = offer_of(row, 0.0, device=self.device, layer_bytes=self.layer_bytes)
        return replace(found, donor=replace(found.donor, memory_bytes=found.donor.memory_bytes + held))


async def facts(link: GridLink, ask: Ask, key: str, *, device: str, layer_bytes: int) -> Facts:
    """Ask the scheduler. `key` draws the lots of those who take a share of the work.

    Raises OSError and TimeoutError when it doesn't answer.
    """
    state = await link.ask("grid_state")
    told = await link.ask("grid_explain", ask=ask.to_annotation(), key=key)
    rows = {row["id"]: row for row in state["workers"]}
    offers = (
        offer_of(rows[said["worker"]], said["score"] or 0.0, device=device, layer_bytes=layer_bytes)
        for said in told["candidates"]
        if said["verdict"] == Reason.ACCEPTED and said["worker"] in rows
    )
    return Facts(tuple(offers), rows, device, layer_bytes)


def offer_of(row: Mapping[str, Any], score: float, *, device: str, layer_bytes: int) -> Offer:
    """A donor's row of the scheduler's document as the rules on layers see it."""
    on_gpu = device != "cpu" and row["gpu_memory_free_gb"] is not None
    gpu = row["gpu_model"] or "a GPU" if on_gpu else None
    speed = presumed_layer_rate(gpu, row["threads"], layer_bytes, row["pace"])
    donor = LayerDonor(
        id=row["id"],
        region=row["region"],
        memory_bytes=int(row["gpu_memory_free_gb"] * 1e9) if on_gpu else _main_memory(row),
        layer_rate=speed,
        reliability=row["score"],
    )
    return Offer(donor, row["address"], score)


def _main_memory(row: Mapping[str, Any]) -> int:
    if row["memory_gb"] is None:
        return UNLIMITED
    return max(0, int((row["memory_gb"] - row["memory_used_gb"]) * (1 - SPARED) * 1e9))

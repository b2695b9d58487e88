"""Which donors may take a stage now, and what each brings: from the scheduler's own rules and its document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...grid.jobs import Ask
from ...grid.layers.capacity import LayerDonor
from ...grid.layers.presumed import presumed_layer_rate
from ...grid.regions import nearness
from ...grid.scoring import factor
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
    """Those who would take the ask."""
    rows: Mapping[str, Mapping[str, Any]]
    """All, by id: see `grid_state`."""
    needs: Needs

    def of(self, donor_id: str, held: int) -> Offer | None:
        """A donor that holds a stage of so many bytes, as if it didn't. None: it is not here."""
        row = self.rows.get(donor_id)
        return None if row is None else offer_of(row, self.needs, held=held)


@dataclass(frozen=True, slots=True)
class Needs:
    """What decides how good a donor is."""

    layer_bytes: int
    device: str = "cpu"
    region: str | None = None


async def facts(link: GridLink, ask: Ask, key: str, needs: Needs) -> Facts:
    """Ask the scheduler. `key` draws the lots of those who take a share of the work.

    Raises OSError and TimeoutError when it doesn't answer.
    """
    state = await link.ask("grid_state")
    told = await link.ask("grid_explain", ask=ask.to_annotation(), key=key)
    rows = {row["id"]: row for row in state["workers"]}
    able = (said["worker"] for said in told["candidates"] if said["verdict"] == Reason.ACCEPTED)
    return Facts(tuple(offer_of(rows[donor], needs) for donor in able if donor in rows), rows, needs)


def offer_of(row: Mapping[str, Any], needs: Needs, *, held: int | None = None) -> Offer:
    """A donor's row of the scheduler's document as the rules on layers see it. `held`: bytes of the stage that it has,
    and would have no more.

    Its score is its speed, times what placement takes off for those that are far or busy: the same for all who compare.
    """
    on_gpu = needs.device != "cpu" and row["gpu_memory_free_gb"] is not None
    gpu = row["gpu_model"] or "a GPU" if on_gpu else None
    free = int(row["gpu_memory_free_gb"] * 1e9) if on_gpu else _main_memory(row)
    donor = LayerDonor(
        id=row["id"],
        region=row["region"],
        memory_bytes=free + (held or 0),
        layer_rate=presumed_layer_rate(gpu, row["threads"], needs.layer_bytes, row["pace"]),
        reliability=row["score"],
    )
    busy = row["running"] > (0 if held is None else 1)
    return Offer(
        donor, row["address"], donor.rate * factor(nearness(needs.region, donor.region), busy=busy, loaded=False)
    )


def _main_memory(row: Mapping[str, Any]) -> int:
    if row["memory_gb"] is None:
        return UNLIMITED
    return max(0, int((row["memory_gb"] - row["memory_used_gb"]) * (1 - SPARED) * 1e9))

"""Which donors may take a stage now, and what each brings: from the scheduler's own rules and its document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...grid.jobs import Ask
from ...grid.layers.capacity import LayerDonor
from ...grid.layers.near import Near, near
from ...grid.layers.presumed import presumed_gb_s
from ...grid.layers.rating import Rated, Told, rated
from ...grid.layers.speed import Source, Speed
from ...grid.regions import nearness
from ...grid.scoring import factor
from ...grid.verdicts import Reason
from .chain_plan import Offer
from .link import GridLink

UNLIMITED = 2**50
"""Bytes: of a worker that was given no limit."""
SPARED = 0.1
"""Share of a worker's free main memory that is left for what grows."""

Row = Mapping[str, Any]
"""A donor in the scheduler's document, see `grid_state`."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The donors, as the grid knew them at one moment."""

    offers: tuple[Offer, ...]
    """Those who would take the ask."""
    rows: Mapping[str, Row]
    """All, by id."""
    needs: Needs
    rates: Mapping[str, Rated] = field(default_factory=dict)
    """How fast each of them is."""
    near: Near = field(default_factory=Near)
    """How far from each other."""

    def of(self, donor_id: str, held: int) -> Offer | None:
        """A donor that holds a stage of so many bytes, as if it didn't. None: it is not here."""
        row = self.rows.get(donor_id)
        return None if row is None else offer_of(row, self.needs, held=held, speed=self.rates.get(donor_id))

    def donors(self, ids: Iterable[str]) -> list[LayerDonor]:
        """Those of them that are here."""
        found = (self.of(donor_id, 0) for donor_id in sorted(ids))
        return [one.donor for one in found if one is not None]

    def needing(self, needs: Needs) -> Facts:
        """The same donors, for other layers."""
        return self if needs == self.needs else facts_of(self.rows, [one.donor.id for one in self.offers], needs)

    def with_speeds(self, speeds: Mapping[str, Speed]) -> Facts:
        """The same, when these were measured of donors that had told none."""
        rows = {
            donor_id: {**row, "speeds": [*row.get("speeds", ()), speeds[donor_id].to_wire()]}
            if donor_id in speeds
            else row
            for donor_id, row in self.rows.items()
        }
        return facts_of(rows, [one.donor.id for one in self.offers], self.needs)


@dataclass(frozen=True, slots=True)
class Needs:
    """What decides how good a donor is."""

    layer_bytes: int
    device: str = "cpu"
    region: str | None = None
    dtype: str = "float32"


async def facts(link: GridLink, ask: Ask, key: str, needs: Needs) -> Facts:
    """Ask the scheduler. `key` draws the lots of those who take a share of the work.

    Raises OSError and TimeoutError when it doesn't answer.
    """
    state = await link.ask("grid_state")
    told = await link.ask("grid_explain", ask=ask.to_annotation(), key=key)
    rows = {row["id"]: row for row in state["workers"]}
    able = [said["worker"] for said in told["candidates"] if said["verdict"] == Reason.ACCEPTED]
    return facts_of(rows, [donor for donor in able if donor in rows], needs)


def facts_of(rows: Mapping[str, Row], able: Iterable[str], needs: Needs) -> Facts:
    """What these rows come to; `able`: who would take the ask."""
    rates = rated({donor_id: _told(row, needs) for donor_id, row in rows.items()}, needs.dtype, needs.layer_bytes)
    offers = tuple(offer_of(rows[donor_id], needs, speed=rates[donor_id]) for donor_id in able)
    regions = {donor_id: row["region"] for donor_id, row in rows.items()}
    links = {donor_id: row["links"] for donor_id, row in rows.items() if row.get("links")}
    return Facts(offers, rows, needs, rates, near(regions, links))


def offer_of(row: Row, needs: Needs, *, held: int | None = None, speed: Rated | None = None) -> Offer:
    """A donor's row of the scheduler's document as the rules on layers see it. `held`: bytes of the stage that it has,
    and would have no more. `speed`: as it compares with others; None: by its row alone.

    Its score is its speed, times what placement takes off for those that are far or busy: the same for all who compare.
    """
    on_gpu = device_of(row, needs) == "cuda"
    free = int(row["gpu_memory_free_gb"] * 1e9) if on_gpu else _main_memory(row)
    speed = speed or rated({row["id"]: _told(row, needs)}, needs.dtype, needs.layer_bytes)[row["id"]]
    donor = LayerDonor(
        id=row["id"],
        region=row["region"],
        memory_bytes=free + (held or 0),
        layer_rate=speed.rate,
        layer_seconds=speed.layer_seconds,
        reliability=row["score"],
    )
    busy = row["running"] > (0 if held is None else 1)
    score = donor.rate * factor(nearness(needs.region, donor.region), busy=busy, loaded=False)
    return Offer(donor, row["address"], score, speed.source)


def device_of(row: Row, needs: Needs) -> str:
    """Where it would compute."""
    return "cuda" if needs.device != "cpu" and row["gpu_memory_free_gb"] is not None else "cpu"


def speeds_of(row: Row) -> tuple[Speed, ...]:
    """What was measured of it."""
    return tuple(Speed.from_wire(one) for one in row.get("speeds", ()))


def _told(row: Row, needs: Needs) -> Told:
    device = device_of(row, needs)
    name = (row["gpu_model"] or "a GPU") if device == "cuda" else None
    read = presumed_gb_s(name, row["threads"]) * 1e9 / row["pace"]
    presumed = Speed(device=device, dtype="", source=Source.PRESUMED, read_bytes_s=read)
    return Told(device=device, presumed=presumed, speeds=speeds_of(row))


def _main_memory(row: Row) -> int:
    if row["memory_gb"] is None:
        return UNLIMITED
    return max(0, int((row["memory_gb"] - row["memory_used_gb"]) * (1 - SPARED) * 1e9))

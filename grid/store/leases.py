"""Leases: which one of several processes does what only one may do. Held for a while, by the database's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .database import Database, Row
from .rows import instant, plain, us

HOLD = """
INSERT INTO leases (name, holder, place, fence, until) VALUES (:name, :holder, :place, 1, {now} + :us)
ON CONFLICT (name) DO UPDATE SET
  fence = CASE WHEN leases.holder = :holder THEN leases.fence ELSE leases.fence + 1 END,
  holder = :holder, place = :place, until = {now} + :us
WHERE leases.holder = :holder OR leases.until <= {now}
RETURNING *
"""
RELEASE = "UPDATE leases SET until = {now} WHERE name = :name AND holder = :holder"
LOOK = "SELECT leases.*, until > {now} AS held FROM leases WHERE name = :name"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it stands."""

    holder: str
    """Whose it is, or was."""
    place: str | None
    """Base URL at which the holder is reached. None: it did not say."""
    fence: int
    """Grows by one with each other holder."""
    until: datetime
    held: bool
    """Whether it still is."""


class LeaseStore:
    """The leases of a grid."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, name: str, holder: str, seconds: float, place: str | None = None) -> Lease | None:
        """Take the lease, or keep it, for so long from now on. None: somebody else holds it."""
        values = {"name": name, "holder": holder, "place": plain(place, 500), "us": us(seconds)}
        with self._database.single() as session:
            row = session.first(HOLD, values)
        return None if row is None else _lease(row, held=True)

    def release(self, name: str, holder: str) -> bool:
        """Give it up at once. False: it was somebody else's."""
        with self._database.single() as session:
            return session.run(RELEASE, {"name": name, "holder": holder}) > 0

    def look(self, name: str) -> Lease | None:
        """Who holds it, or held it last. None: nobody ever did."""
        with self._database.read() as session:
            row = session.first(LOOK, {"name": name})
        return None if row is None else _lease(row, held=bool(row["held"]))


def _lease(row: Row, *, held: bool) -> Lease:
    return Lease(row["holder"], row["place"], row["fence"], instant(row["until"]), held)

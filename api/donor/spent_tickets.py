"""The tickets that this worker has taken, on disk too: a process that is started again takes none of them anew."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from ...grid.tickets import BadTicket, Spent, Ticket, TooManyTickets

logger = logging.getLogger(__name__)

FILE = "spent-tickets"
_LONGEST = 4


class SpentTickets:
    """`Spent`, with a file that only its owner reads: a line for each, its expiry and its nonce. Not thread-safe."""

    def __init__(self, path: Path, now: datetime) -> None:
        """Reads what an earlier process took, and writes the file anew without what has expired. Raises OSError."""
        self._path, self._spent = path, Spent()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lines = self._read(now)
        self._write()

    def spend(self, ticket: Ticket, now: datetime) -> None:
        """Take the ticket, for good. Raises BadTicket, TooManyTickets; OSError: it could not be noted."""
        self._spent.spend(ticket, now)
        self._lines.append((ticket.expires_at.timestamp(), ticket.nonce))
        if len(self._lines) > _LONGEST * max(64, len(self._spent)):
            self._lines = [line for line in self._lines if line[0] > now.timestamp()]
            self._write()
            return
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
            file.write(_line(*self._lines[-1]))

    def _read(self, now: datetime) -> list[tuple[float, str]]:
        try:
            text = self._path.read_text("ascii", errors="replace")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.splitlines():
            expires, _, nonce = line.partition(" ")
            try:
                at = datetime.fromtimestamp(float(expires), UTC)
                ticket = Ticket(worker_id="", client_id="", job_type="", expires_at=at, nonce=nonce)
                self._spent.spend(ticket, now)
            except (ValueError, OverflowError, OSError, BadTicket, TooManyTickets):
                continue  # half a line of a process that was killed, or one that opens nothing any more
            lines.append((at.timestamp(), nonce))
        return lines

    def _write(self) -> None:
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.writelines(_line(*line) for line in self._lines)
        draft.replace(self._path)


def _line(expires: float, nonce: str) -> str:
    return f"{expires:.0f} {nonce}\n"

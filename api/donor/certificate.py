"""This machine's certificate for the Dask network: kept beside its credentials, renewed with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ...grid.certificate_files import Paper
from ..tls import SCHEME
from .server import Certificate
from .state import Home


class OwnCertificate:
    """The certificate of one home."""

    def __init__(self, home: Home) -> None:
        self._paper = Paper(home.certificate)

    def keep(self, given: Certificate | None) -> None:
        """Put what the grid gave in the place of what there was: a worker process shows it from its next connection
        on. Nothing for a grid without TLS. Raises OSError.
        """
        if given is not None:
            self._paper.save(given.certificate, given.key, given.authority)

    def expires_at(self) -> datetime | None:
        """Aware. None: there is none that can be read."""
        held = self._paper.read()
        return None if held is None else held.expires_at

    def due(self, scheduler: str | None, now: datetime) -> bool:
        """Whether the grid should be asked for a new one: the scheduler wants one, and it is old or not there."""
        if scheduler is None or not scheduler.startswith(SCHEME):
            return False
        held = self._paper.read()
        return held is None or held.due(now)

    def told(self, now: datetime) -> str | None:
        """For the owner. None: there is none."""
        expires = self.expires_at()
        if expires is None:
            return None
        when = f"{expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        return f"good until {when}" if expires - now > timedelta(0) else f"ran out at {when}"

"""The agent's line to the grid: heartbeats, commands, versions of the configuration, and tokens that never run out."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ...grid.credentials import BadCredentials, Credentials
from .certificate import OwnCertificate
from .face import ScoreTerms
from .server import Away, Heard, Refused, Service, Tokens

logger = logging.getLogger(__name__)

EARLY = timedelta(hours=4)
"""Before the end of an access token it is renewed."""
BACKOFF_FIRST, BACKOFF_MOST = 1.0, 60.0
"""Seconds between two tries while the grid is away: doubled each time, and spread by chance."""
REFUSED_EVERY = 60.0
"""Seconds between two tries of a machine that the grid does not want: it may be let in again."""
CLOCK_EVERY = 5.0
"""Seconds between two tries of a machine whose clock is wrong: its owner, or NTP, sets it at any moment."""
LOST = 50.0
"""Seconds within which a renewal whose answer was lost is asked for again: the grid gives the same pair for 60."""
ASK_EVERY = timedelta(minutes=10)
"""Between two requests for a certificate."""
_TOKEN_CODES = frozenset({"invalid_worker_token", "invalid_refresh_token"})


def refresh_at(expires: datetime, first_seen: datetime) -> datetime:
    """When an access token is renewed: 4 h before its end, or after half of what it has left if that is less."""
    left = max(expires - first_seen, timedelta(0))
    return expires - min(EARLY, left / 2)


def backoff(failures: int, draw: float) -> float:
    """Seconds until the next try after so many failures in a row; `draw` in [0, 1)."""
    most = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 10))
    return most * (0.5 + 0.5 * draw)


class Heart:
    """Beats until it is cancelled; `beat_now` makes the next beat come at once."""

    def __init__(
        self,
        service: Service,
        path: Path,
        *,
        interval: float,
        facts: Callable[[], Mapping[str, Any]],
        heard: Callable[[Heard], Awaitable[None]],
        changed: Callable[[], None],
        certificate: OwnCertificate | None = None,
        scheduler: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`path`: of the credentials. `facts`: the body of a heartbeat; `heard`: takes its answer; `changed`: the grid
        came or went. `certificate`: renewed with the tokens, and whenever the scheduler at the address that `scheduler`
        tells wants a newer one.
        """
        self._certificate, self._scheduler = certificate, scheduler
        self._asked: datetime | None = None
        """When a certificate was last asked for."""
        self._service, self._path = service, path
        self._facts, self._heard, self._changed = facts, heard, changed
        self._now = asyncio.Event()
        self._seen: tuple[str, datetime] | None = None
        self.interval = interval
        self.away: str | None = None
        """Why the grid can't be reached; None: it can."""
        self.refused: str | None = None
        """Why the grid does not want this machine; None: it does."""
        self.score: ScoreTerms | None = None
        self.beats = 0
        """How many were answered."""

    @property
    def credentials(self) -> Credentials:
        """As they are on disk: `join` may have replaced them. Raises OSError, BadCredentials."""
        return Credentials.load(self._path)

    def beat_now(self) -> None:
        """Tell the grid at once."""
        self._now.set()

    async def run(self) -> None:
        """Beat for ever."""
        failures = 0
        while True:
            self._now.clear()
            pause = await self._beat_safely()
            failures = failures + 1 if self.away else 0
            if self.away:
                pause = max(pause, backoff(failures, random.random()))  # noqa: S311 - to spread tries, not to hide
            try:
                async with asyncio.timeout(pause):
                    await self._now.wait()
            except TimeoutError:
                continue

    async def _beat_safely(self) -> float:
        """One beat; seconds until the next."""
        away, refused, pause = None, None, self.interval
        try:
            await self.beat()
        except Away as error:
            away, pause = str(error), error.retry_after or 0.0
        except Refused as error:
            every = CLOCK_EVERY if error.code == "clock_skew" else REFUSED_EVERY
            refused, pause = _words(error), max(self.interval, every)
        except (OSError, BadCredentials) as error:
            refused, pause = f"the credentials can't be used: {error}", REFUSED_EVERY
        if (away, refused) != (self.away, self.refused):
            logger.warning("%s", away or refused) if away or refused else logger.info("the grid answers")
            self.away, self.refused = away, refused
            self._changed()
        return pause

    async def beat(self) -> None:
        """Renew what runs out, then one heartbeat. Raises Away, Refused, OSError, BadCredentials."""
        held = self.credentials
        if self._seen is None or self._seen[0] != held.token:
            self._seen = (held.token, datetime.now(UTC))
        now = datetime.now(UTC)
        if now >= refresh_at(held.token_expires_at, self._seen[1]) or self._certificate_due(now):
            held = await self._refresh(held)
        try:
            heard = await self._service.heartbeat(held.worker_id, self._facts())
        except Refused as error:
            if error.status != 401 or error.code not in _TOKEN_CODES:
                raise
            held = await self._refresh(held)
            heard = await self._service.heartbeat(held.worker_id, self._facts())
        self.beats += 1
        if heard.heartbeat_interval:
            self.interval = heard.heartbeat_interval
        if heard.reliability is not None:
            self.score = heard.reliability.score
        await self._heard(heard)

    async def _refresh(self, held: Credentials) -> Credentials:
        """New tokens, on disk before anything else is said. Raises Away, Refused."""
        tokens = await self._renewed(held)
        new = replace(
            held,
            token=tokens.token,
            refresh_token=tokens.refresh_token,
            token_expires_at=tokens.token_expires_at,
        )
        new.save(self._path)
        if self._certificate is not None:
            self._certificate.keep(tokens.tls)
        self._seen = (new.token, datetime.now(UTC))
        logger.info("the tokens were renewed, good until %s UTC", f"{new.token_expires_at:%Y-%m-%d %H:%M}")
        return new

    def _certificate_due(self, now: datetime) -> bool:
        """Whether to ask for a certificate: not again and again of a grid that gives none."""
        if self._certificate is None or (self._asked is not None and now - self._asked < ASK_EVERY):
            return False
        if not self._certificate.due(self._scheduler(), now):
            return False
        self._asked = now
        return True

    async def _renewed(self, held: Credentials) -> Tokens:
        """The answer to a renewal. One that may be lost is asked for again, as long as that helps."""
        loop = asyncio.get_running_loop()
        ends, failures = loop.time() + LOST, 0
        while True:
            try:
                return await self._service.refresh(held.worker_id, held.refresh_token)
            except Away as error:
                failures += 1
                pause = backoff(failures, random.random()) / 4  # noqa: S311
                if not error.sent or loop.time() + pause >= ends:
                    raise
                await asyncio.sleep(pause)


def _words(error: Refused) -> str:
    """For the owner: what the grid's no means, and what to do."""
    if error.status == 401 and error.code in _TOKEN_CODES:
        return "the grid does not know this machine any more: ask its operator for a token, then `gpu-worker join`"
    if error.code == "worker_blocked":
        return "an administrator of the grid has blocked this machine: ask them; it works again once they let it in"
    return str(error)

"""Keeps both sides in step: what this machine is, the owner's limits, and those that the grid holds, with versions."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .membership import Membership
from .remote import own_limits
from .server import Away, Refused, RemoteConfig, Service

logger = logging.getLogger(__name__)


_FOR_GOOD = frozenset({404, 405, 422})
"""Answers to an announcement that the next one would get, too: of an older grid, or of what makes no sense there."""


class Agreement:
    """What is known and what is allowed of one machine, on both sides."""

    def __init__(self, service: Service, member: Membership, apply: Callable[[], Awaitable[None]]) -> None:
        """`apply`: has what is in force from now on be in force."""
        self._service, self._member, self._apply = service, member, apply

    async def begin(self) -> None:
        """At the start; a grid that is away is worked for as it was last."""
        try:
            await self.fetch()
        except (Away, Refused) as error:
            logger.warning("the grid's configuration of this machine could not be fetched: %s", error)

    async def keep(self, *, changed: bool, version: int) -> None:
        """After a heartbeat, whose answer says whether the grid holds another version. Raises Away, Refused."""
        await self._announce()
        if changed or version not in (0, self._member.kept.config_version):
            await self.fetch()
        if own_limits(self._member.loaded) != self._member.kept.pushed:
            await self._push()

    async def _announce(self) -> None:
        """Tell the grid what this machine is, if that changed since it was told last: a setting, its GPU."""
        facts = self._member.facts()
        if facts == self._member.kept.announced:
            return
        try:
            await self._service.announce(self._member.id, facts)
            logger.info("the grid knows what this machine is now")
        except Refused as error:
            if error.status not in _FOR_GOOD:
                raise
            logger.warning("the grid does not take what this machine is now, and goes by what it was: %s", error)
        self._member.keep(announced=facts, name=facts["name"], region=facts["region"])

    async def fetch(self) -> None:
        """Go by what the grid holds. Raises Away, Refused."""
        found, kept = await self._service.config(self._member.id), self._member.kept
        if (found.version, found.config) != (kept.config_version, kept.remote):
            logger.info("version %d of the grid's configuration is in force", found.version)
            self._member.keep(config_version=found.version, remote=found.config)
            await self._apply()

    async def _push(self) -> None:
        """Tell the grid what the owner set. Somebody else's change in between stays where the owner says nothing."""
        own = own_limits(self._member.loaded)
        try:
            held = await self._put(own)
        except Refused as error:
            if error.status != 412:
                logger.warning("the grid does not take this machine's limits, which hold all the same: %s", error)
                self._member.keep(pushed=own)
                return
            await self.fetch()
            held = await self._put(own)
        self._member.keep(pushed=own, config_version=held.version, remote=held.config)
        await self._apply()

    async def _put(self, own: Mapping[str, Any]) -> RemoteConfig:
        kept = self._member.kept
        dropped = {key for key in kept.pushed if own.get(key) is None}
        config = {key: value for key, value in kept.remote.items() if key not in dropped}
        config |= {key: value for key, value in own.items() if value is not None}
        return await self._service.put_config(self._member.id, RemoteConfig(version=kept.config_version, config=config))

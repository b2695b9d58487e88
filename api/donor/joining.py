"""Becoming a worker of a grid: this machine's facts and an enrolment token in, credentials on disk out."""

from __future__ import annotations

import uuid
from dataclasses import replace
from hashlib import sha256
from typing import Any

from ...grid.config import Loaded, load_settings
from ...grid.credentials import BadCredentials, Credentials
from ...grid.donors import Donor
from ...scheduler_plugins.machine import visible_gpu
from ..ports import CannotStart
from .certificate import OwnCertificate
from .membership import donor_of, facts_of
from .remote import own_limits
from .server import Away, Joined, Refused, Service, credentials_of
from .state import Home, Kept


def registered(home: Home) -> Credentials | None:
    """What this machine was given when it joined; None: it has not. Raises BadCredentials."""
    try:
        return Credentials.load(home.credentials)
    except FileNotFoundError:
        return None


def load(home: Home) -> Loaded:
    """The settings of this home. Raises ConfigError."""
    return load_settings(home.config if home.config.is_file() else None)


async def join(home: Home, url: str, token: str, *, pull: bool) -> Credentials:
    """Register this machine at `url`; an enrolment token that already let this machine in is not shown again.

    Raises CannotStart with what the grid says, and ConfigError.
    """
    url, told = url.rstrip("/"), sha256(token.encode()).hexdigest()[:16]
    kept = Kept.load(home.state)
    try:
        held = registered(home)
    except BadCredentials:
        held = None
    if held is not None and held.server == url and kept.enrolment == told:
        _keep(home, kept, pull=pull)
        return held
    loaded = load(home)
    own = {key: value for key, value in own_limits(loaded).items() if value is not None}
    server, donor = loaded.settings.server, donor_of(loaded.settings, uuid.uuid4().hex, visible_gpu())
    facts = facts_of(donor, loaded.settings)
    try:
        async with Service(url, timeout=server.timeout, verify=server.verify_ssl) as service:
            joined = await service.register(token, facts | ({"config": own} if own else {}))
    except Away as error:
        raise CannotStart(f"{error}; is the URL right, and does the grid run?") from None
    except Refused as error:
        raise CannotStart(f"this machine was not let in: {error}") from None
    kept = Kept(pull=pull, enrolment=told, pushed=own_limits(loaded), announced=facts)
    return _settle(home, url, joined, kept, donor)


def _settle(home: Home, url: str, joined: Joined, kept: Kept, donor: Donor) -> Credentials:
    home.make()
    held = credentials_of(joined, url)
    held.save(home.credentials)
    OwnCertificate(home).keep(joined.tls)
    _keep(
        home,
        kept,
        scheduler_address=joined.scheduler_address,
        config_version=joined.config_version,
        remote=joined.config,
        name=donor.name,
        region=donor.region,
    )
    return held


def _keep(home: Home, kept: Kept, **changes: Any) -> None:
    replace(kept, **changes).save(home.state)

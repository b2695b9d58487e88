"""What can keep this machine from working in its grid, beside what `api.doctor` looks at in any machine."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from ...grid.config import Settings
from ...grid.config.time_zone import local_time_zone
from ...grid.credentials import BadCredentials, Credentials
from ...grid.signing import WINDOW
from ..doctor import Finding, Health
from ..ports import obstacle
from ..tls import SCHEME
from .certificate import OwnCertificate
from .control import Control, NotRunning
from .membership import Membership, Options
from .proposing import in_clear, likely_region
from .server import Away, Refused, Service
from .state import Home, Kept

REACH = 5.0
"""Seconds that a port has to answer."""
SKEW_NOTED = 30.0
"""Seconds by which clocks may differ before it is told."""


def examine_donor(home: Home, settings: Settings) -> Iterator[Finding]:
    """Every finding about this machine as a worker of a grid, in the order in which a person would look."""
    yield _driver()
    yield _time_zone(settings)
    yield from _files(home)
    if settings.direct.enabled:
        yield _direct_port(settings)
    try:
        held = Credentials.load(home.credentials)
    except FileNotFoundError:
        yield Finding("registration", Health.NOTE, "this machine has joined no grid", "gpu-worker join URL TOKEN")
        yield from asyncio.run(_reached(settings.server.url, settings))
        return
    except BadCredentials as error:
        yield Finding("registration", Health.PROBLEM, str(error), "mend it, or join again")
        return
    yield Finding("registration", Health.OK, f"worker {held.worker_id} of {held.server}")
    yield from asyncio.run(_reached(held.server, settings))
    yield from _scheduler(home)
    yield from _certificate(home, datetime.now(UTC))
    yield _agent(home)
    yield from asyncio.run(_token(home, held))


def _driver() -> Finding:
    from distributed.diagnostics import nvml

    if nvml.device_get_count() < 1:
        found = "none of NVIDIA's is loaded"
        return Finding("driver", Health.NOTE, found, "fine for work on the CPU; with a GPU install its driver")
    return Finding("driver", Health.OK, str(nvml.pynvml.nvmlSystemGetDriverVersion()))


def _time_zone(settings: Settings) -> Finding:
    named = settings.load_control.time_zone
    zone, where = named or local_time_zone(), "of the configuration" if named else "of this machine"
    now = f"{zone} {where}"
    likely = likely_region(zone)
    if zone.removeprefix("Etc/") in ("UTC", "UCT", "GMT", "Universal", "Zulu") and not named:
        advice = "hours are counted in UTC: gpu-worker set time_zone Europe/Berlin, if you live elsewhere"
        return Finding("time zone", Health.NOTE, now, advice)
    if likely is not None and likely != settings.region:
        advice = f"that is in {likely}: gpu-worker set region {likely}, if it is right"
        return Finding("time zone", Health.NOTE, f"{now}, region {settings.region}", advice)
    return Finding("time zone", Health.OK, now)


def _files(home: Home) -> Iterator[Finding]:
    """Whether only the owner can read what is secret."""
    for path in (home.credentials, home.certificate, home.state, home.log):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("files", Health.PROBLEM, f"others can read {path}", f"chmod 600 {path}")


def _direct_port(settings: Settings) -> Finding:
    host, port = settings.direct.host, settings.direct.port
    error = obstacle(host, port)
    if error is None:
        return Finding("port direct", Health.OK, f"{host}:{port} is free")
    advice = "the running agent's own, or gpu-worker set direct.port another"
    return Finding("port direct", Health.NOTE, f"{host}:{port}: {error.strerror or error}", advice)


async def _reached(url: str, settings: Settings) -> list[Finding]:
    """Whether the grid answers, and what its clock says beside ours."""
    place = urlsplit(url)
    name = f"{place.scheme}://{place.hostname}{f':{place.port}' if place.port else ''}"
    try:
        async with Service(url, timeout=10, verify=settings.server.verify_ssl) as service:
            theirs = await service.clock()
    except Away as error:
        advice = "is the URL right, does the grid run, does a firewall let you out?"
        return [Finding("server", Health.PROBLEM, str(error), advice)]
    found = [Finding("server", Health.OK, f"{name} answers")]
    if in_clear(url):
        found.append(Finding("server tls", Health.NOTE, f"{name} is not encrypted", "ask its operator for https://"))
    if theirs is not None:
        found.append(clock_finding(theirs, datetime.now(UTC)))
    return found


def _scheduler(home: Home) -> Iterator[Finding]:
    """Whether the Dask scheduler can be reached, by a machine to which it brings work."""
    kept = Kept.load(home.state)
    if kept.pull or kept.scheduler_address is None:
        return
    place = urlsplit(kept.scheduler_address)
    try:
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=REACH):
            yield Finding("scheduler", Health.OK, f"{kept.scheduler_address} can be reached")
    except OSError as error:
        told = f"{kept.scheduler_address} can't be reached: {error.strerror or error}"
        advice = "does the grid run, does a firewall let you out to that port? --pull needs the server alone"
        yield Finding("scheduler", Health.PROBLEM, told, advice)


def clock_finding(theirs: datetime, ours: datetime) -> Finding:
    """What the difference of two clocks means: signed requests are refused beyond a few minutes."""
    skew = (ours - theirs).total_seconds()
    told = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the grid's"
    advice = "set it, for example: timedatectl set-ntp true"
    if abs(skew) >= WINDOW - SKEW_NOTED:
        return Finding("clock", Health.PROBLEM, told, f"beyond {WINDOW} s signed requests are refused: {advice}")
    if abs(skew) > SKEW_NOTED:
        return Finding("clock", Health.NOTE, told, advice)
    return Finding("clock", Health.OK, "as the grid's")


def _certificate(home: Home, now: datetime) -> Iterator[Finding]:
    """Whether the Dask scheduler will have this machine, where it wants to see a certificate."""
    kept, own = Kept.load(home.state), OwnCertificate(home)
    if kept.pull or not (kept.scheduler_address or "").startswith(SCHEME):
        return
    told, expires = own.told(now), own.expires_at()
    if expires is not None and expires > now and not own.due(kept.scheduler_address, now):
        yield Finding("certificate", Health.OK, str(told))
    elif expires is not None and expires > now:
        yield Finding("certificate", Health.NOTE, str(told), "the running agent renews it: gpu-worker start")
    else:
        found, advice = told or "there is none", "the running agent asks for one within minutes: gpu-worker start"
        yield Finding("certificate", Health.PROBLEM, found, advice)


def _agent(home: Home) -> Finding:
    try:
        status, _ = Control(home.control_socket).status()
    except NotRunning:
        kept = Kept.load(home.state)
        found = "it does not run" + (", and is paused" if kept.paused else "")
        return Finding("agent", Health.NOTE, found, "gpu-worker start")
    return Finding("agent", Health.OK, f"{status.state}: {status.reason}")


async def _token(home: Home, held: Credentials) -> list[Finding]:
    """Whether the grid takes this machine's word."""
    left = held.token_expires_at - datetime.now(UTC)
    good = f"good for {left / timedelta(hours=1):.1f} h more"
    try:
        member = Membership(home, Options())
        async with member.service() as service:
            await service.config(held.worker_id)
    except Away as error:
        return [Finding("token", Health.NOTE, f"could not be tried: {error}", "see server")]
    except Refused as error:
        advice = "the running agent renews it; else ask the operator for a new one, and join again"
        if error.code == "clock_skew":
            advice = "see clock"
        return [Finding("token", Health.PROBLEM, str(error), advice)]
    if left < timedelta(0):
        return [Finding("token", Health.NOTE, "it has run out", "gpu-worker start renews it")]
    return [Finding("token", Health.OK, good)]


def config_of(home: Home, named: Path | None) -> Path | None:
    """The configuration file that is meant: None lets the usual rules decide."""
    return named or (home.config if home.config.is_file() else None)

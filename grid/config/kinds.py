"""Kinds of values that more than one setting has, each with the check that makes it one."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

from ..model_lock import COMMIT, CONTENT
from ..regions import check_region
from ..schedule import Schedule
from ..suggest import did_you_mean

JOB_TYPES = ("llm", "embedding", "whisper", "image_gen", "vision")
"""The job types that the grid was made for; installed packages may add more."""

T = TypeVar("T")


def _auto(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


@cache
def _job_types() -> tuple[str, ...]:
    installed = entry_points(group="idlegrid.job_types")
    return (*JOB_TYPES, *(point.name for point in installed if point.name not in JOB_TYPES))


def _job_type(value: str) -> str:
    # looking at what is installed takes milliseconds: only for a name that is not one of ours
    if value not in JOB_TYPES and value not in _job_types():
        raise ValueError(f"{value!r} is no job type.{did_you_mean(value, _job_types())}")
    return value


def _commas(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _at_least_one(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("the list is empty")
    return tuple(dict.fromkeys(value))


def _url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not (parts.hostname or parts.scheme == "unix"):
            raise ValueError(f"not a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(check)


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{value!r} is no time zone of the IANA database") from None
    return value


def _schedule(value: str) -> str:
    Schedule(value)
    return value


def _networks(value: Any) -> Any:
    """``10.0.0.0/8=europe-west,…`` as a mapping; the networks of a mapping in their normal form."""
    if isinstance(value, str):
        value = dict(part.partition("=")[::2] for part in value.split(",") if part.strip())
    if not isinstance(value, Mapping):
        return value
    return {str(ipaddress.ip_network(str(network).strip())): region for network, region in value.items()}


def _pairs(value: Any) -> Any:
    """``a=1,b=2`` as a mapping."""
    if not isinstance(value, str):
        return value
    return {name.strip(): one.strip() for name, _, one in (part.partition("=") for part in value.split(",")) if name}


def _revision(value: str) -> str:
    if not (COMMIT.fullmatch(value) or CONTENT.fullmatch(value)):
        raise ValueError("a revision is a commit (40 hex digits, no branch or tag) or a content (64)")
    return value


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value.strip()))


NonEmpty = Annotated[str, Field(min_length=1)]
Auto = Annotated[T | None, BeforeValidator(_auto)]
"""A value, or None, which is written ``auto``."""
Region = Annotated[str, AfterValidator(check_region)]
"""One of the seven region codes."""
JobTypes = Annotated[
    tuple[Annotated[str, AfterValidator(_job_type)], ...], BeforeValidator(_commas), AfterValidator(_at_least_one)
]
"""Job types; in a variable with commas."""
Names = Annotated[tuple[NonEmpty, ...], BeforeValidator(_commas), AfterValidator(_at_least_one)]
"""Names; in a variable with commas."""
Cidrs = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_commas), AfterValidator(_at_least_one)
]
"""Networks in CIDR form; in a variable with commas."""
HttpUrl = Annotated[str, _url("http", "https")]
HttpUrls = Annotated[tuple[HttpUrl, ...], BeforeValidator(_commas), AfterValidator(_at_least_one)]
"""Addresses of one service; in a variable with commas."""
RedisUrl = Annotated[str, _url("redis", "rediss", "unix")]
DaskAddress = Annotated[str, _url("tcp", "tls", "ucx", "ws", "wss", "inproc")]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
"""Name of an IANA time zone, e.g. ``Europe/Berlin``."""
WeekSchedule = Annotated[str, AfterValidator(_schedule)]
"""Windows of the week, e.g. ``mon-fri 18:00-08:00``."""
Networks = Annotated[dict[str, Region], BeforeValidator(_networks)]
"""Network in CIDR form → region code; in a variable ``10.0.0.0/8=europe-west,…``."""
Revisions = Annotated[dict[NonEmpty, Annotated[str, AfterValidator(_revision)]], BeforeValidator(_pairs)]
"""Model → revision; in a variable ``model=revision,…``."""

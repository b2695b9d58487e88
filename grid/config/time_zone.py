"""The machine's own time zone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

LOCALTIME = Path("/etc/localtime")


def local_time_zone(environ: Mapping[str, str] | None = None, localtime: Path = LOCALTIME) -> str:
    """IANA name from the variable TZ, else from the link `localtime`. UTC where neither names a zone."""
    named = (os.environ if environ is None else environ).get("TZ", "").lstrip(":")
    linked = str(localtime.resolve()).partition("/zoneinfo/")[2]
    return next((name for name in (named, linked) if name and _exists(name)), "UTC")


def _exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True

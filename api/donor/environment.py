"""What an agent tells its worker process in its environment: the owner's settings, whatever file they stand in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...grid.config import Loaded
from ...grid.config.fields import settings_of
from ...grid.config.loading import DEFAULT

SECTIONS = ("engines", "gpu", "direct", "inference", "distributed", "speculative", "observability", "server")
"""What a worker process needs; its limits and facts come with the donor."""


def settings_environment(loaded: Loaded) -> dict[str, str]:
    """Variable → value for each setting of `SECTIONS` that somebody set."""
    told = {}
    for item in settings_of(type(loaded.settings)):
        if item.key.split(".")[0] not in SECTIONS or loaded.origins[item.key] == DEFAULT:
            continue
        value: Any = loaded.settings
        for name in item.key.split("."):
            value = getattr(value, name)
        if value is not None:
            told[item.variable] = _written(value)
    return told


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

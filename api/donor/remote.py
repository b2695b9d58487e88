"""What is in force: the owner's own settings, and what the grid holds for this machine. The stricter of the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from ...grid.config import Loaded, Settings
from ...grid.config.donor import LoadControl
from ...grid.config.loading import DEFAULT

SECTION = "load_control"
_HOURS = frozenset({"working_hours_start", "working_hours_end", "schedule", "time_zone"})
"""They mean something only together."""


def _least(own: Any, other: Any) -> Any:
    return min(own, other)


def _most(own: Any, other: Any) -> Any:
    return max(own, other)


def _least_above_zero(own: Any, other: Any) -> Any:
    return min(own, other) or max(own, other)


STRICTER: Mapping[str, Callable[[Any, Any], Any]] = {
    "acceptance_rate": _least,
    "max_concurrent_jobs": _least,
    "max_jobs_per_hour": _least_above_zero,
    "max_gpu_memory_percent": _least,
    "only_when_idle_minutes": _most,
    "pause_on_battery": _most,
    "max_gpu_temperature": _least_above_zero,
    "pause_for_other_gpu_programs": _most,
}
"""Of two values the one that asks less of the machine. 0 means no limit where it can be said."""


def own_limits(loaded: Loaded) -> dict[str, Any]:
    """The load control that the owner set on this machine: key without its section → value."""
    values = loaded.settings.load_control.model_dump()
    return {key: value for key, value in values.items() if loaded.origins[f"{SECTION}.{key}"] != DEFAULT}


def in_force(loaded: Loaded, remote: Mapping[str, Any]) -> Settings:
    """The settings with the load control that is in force.

    What the owner set is the most that the grid may take; what the owner left open the grid may set. Keys that this
    version doesn't know, and values that no owner could set, are left out.
    """
    own = own_limits(loaded)
    if own.keys() & _HOURS:
        remote = {key: value for key, value in remote.items() if key not in _HOURS}
    merged = loaded.settings.load_control.model_dump()
    for key, value in _valid(remote).items():
        if key not in own:
            merged[key] = value
        elif key in STRICTER:
            merged[key] = STRICTER[key](own[key], value)
    return loaded.settings.model_copy(update={SECTION: LoadControl.model_validate(merged)})


def _valid(remote: Mapping[str, Any]) -> dict[str, Any]:
    """What of it is allowed, in its proper types."""
    given = {key: value for key, value in remote.items() if key in LoadControl.model_fields and value is not None}
    while given:
        try:
            checked = LoadControl.model_validate(given).model_dump()
            return {key: checked[key] for key in given}
        except ValidationError as error:
            wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
            bad = (wrong & given.keys()) or (given.keys() & _HOURS) or set(given)
            given = {key: value for key, value in given.items() if key not in bad}
    return {}

"""Settings from files and variables: environment > `.env` > `config.yaml` > defaults.

Plain pydantic models with layers of our own: pydantic-settings cannot give a nested key a flat variable of any name
(`GPU_ACCEPTANCE_RATE`), reads the environment in the constructor, and forgets which place a value came from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .fields import Setting, mask, settings_of
from .problems import ConfigError, Problem
from .settings import Settings
from .sources import Entry, Layer, dotenv_layer, environment_layer, yaml_layer

CONFIG_FILE = Path("config.yaml")
DOTENV_FILE = Path(".env")
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `idlegrid config show`."""

    key: str
    value: str
    """As people write it; secrets are masked."""
    origin: str
    """``default``, ``config.yaml (path:line)``, ``.env (path:line)`` or ``environment NAME``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Dotted key → origin, for every key."""
    warnings: tuple[Problem, ...] = ()
    """Variables that look like a slip and were ignored."""

    def rows(self) -> Iterator[Row]:
        """Every setting with its value and origin, in the order of the documentation."""
        for item in settings_of(Settings):
            yield Row(item.key, item.show(_value(self.settings, item.key)), self.origins[item.key])


def load_settings(
    config_path: Path | str | None = None,
    dotenv_path: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read the settings.

    Without paths `config.yaml` and `.env` of the current folder are read if they are there; without `environ` it is the
    process's. Raises ConfigError with every problem that was found: a file that is named and is not there, an unknown
    key, a value that is not allowed.
    """
    layers = [
        *_file_layer(yaml_layer, config_path, CONFIG_FILE),
        *_file_layer(dotenv_layer, dotenv_path, DOTENV_FILE),
        environment_layer(os.environ if environ is None else environ, Settings),
    ]
    entries: dict[str, Entry] = {}
    for layer in layers:
        entries |= layer.entries
    problems = [problem for layer in layers for problem in layer.problems]
    try:
        settings = Settings.model_validate(_nested(entries))
    except ValidationError as error:
        problems += _explain(error, entries)
    if problems:
        raise ConfigError(problems)
    origins = {item.key: entries[item.key].origin if item.key in entries else DEFAULT for item in settings_of(Settings)}
    return Loaded(settings, origins, tuple(warning for layer in layers for warning in layer.warnings))


def _file_layer(read: Any, named: Path | str | None, usual: Path) -> Iterator[Layer]:
    """The layer of a file: of the named one, which must be there, or of the usual one, which may be missing."""
    if named is not None:
        yield read(Path(named), Settings)
    elif usual.is_file():
        yield read(usual, Settings)


def _nested(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    root: dict[str, Any] = {}
    for key, entry in entries.items():
        *sections, name = key.split(".")
        place = root
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = entry.value
    return root


def _value(settings: Settings, key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _explain(error: ValidationError, entries: Mapping[str, Entry]) -> Iterator[Problem]:
    """One problem for each key that pydantic refused."""
    known = {item.key: item for item in settings_of(Settings)}
    told: set[str] = set()
    for detail in error.errors(include_url=False):
        path = [str(part) for part in detail["loc"]]
        dotted = [".".join(path[:length]) for length in range(len(path), 0, -1)]
        key = next((candidate for candidate in dotted if candidate in known), dotted[0] if dotted else "")
        if key in told:
            continue
        told.add(key)
        own = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else ""
        if key in known:
            yield _refused(known[key], entries[key], own)
        else:
            involved = [entry.origin for name, entry in entries.items() if name.startswith(f"{key}.")]
            yield Problem(key, ", ".join(involved), own or detail["msg"])


def _refused(item: Setting, entry: Entry, own: str) -> Problem:
    value = mask(str(entry.value)) if item.secret else repr(entry.value)
    reason = f" ({own.rstrip('.')})" if own else ""
    unit = f", in {item.unit}" if item.unit else ""
    return Problem(item.key, entry.origin, f"{value} is not allowed{reason}. Allowed: {item.allowed}{unit}.")

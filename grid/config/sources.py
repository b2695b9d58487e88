"""The three places that values come from: a YAML file, a `.env` file, the process's environment.

Each becomes a flat layer: dotted key → value with its origin. What is wrong in a place is collected, not raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dotenv.parser import parse_stream

from ..failpoints import VARIABLE as FAILPOINT_VARIABLE
from ..suggest import did_you_mean, nearest
from .fields import Section, section_of, settings_of
from .problems import Problem

PREFIXES = ("GPU_", "IDLEGRID_")
FOREIGN = frozenset(
    {
        FAILPOINT_VARIABLE,
        "IDLEGRID_CREDENTIALS",
        "IDLEGRID_DONOR",
        "IDLEGRID_HOME",
        "IDLEGRID_ORDERS",
        "IDLEGRID_PARENT",
        "IDLEGRID_SENSORS",
        "IDLEGRID_WARM",
        "GPU_DEVICE_ORDINAL",
        "GPU_MAX_HEAP_SIZE",
        "GPU_MAX_ALLOC_PERCENT",
    }
)
"""Variables with our prefixes that are no settings: the tests' failpoint, what processes of the grid tell those that
they start, and AMD's driver."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as it was found."""

    value: Any
    origin: str
    """For people, e.g. ``config.yaml (/etc/idlegrid/config.yaml:12)``."""


@dataclass(slots=True)
class Layer:
    """What one place says."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """Dotted key → value."""
    problems: list[Problem] = field(default_factory=list)
    """What cannot be used: the configuration is refused."""
    warnings: list[Problem] = field(default_factory=list)
    """What looks like a slip and is ignored."""


def yaml_layer(path: Path, model: type[Section]) -> Layer:
    """The layer of a YAML file. Unknown keys, at any depth, and keys given twice are problems."""
    layer = Layer()
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None:
            return layer
        if not isinstance(root, yaml.MappingNode):
            layer.problems.append(Problem(path.name, str(path), "the file must hold keys with values"))
            return layer
        _YamlReader(path, loader, tuple(item.key for item in settings_of(model)), layer).read(root, model)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        layer.problems.append(Problem(path.name, str(path), f"cannot be read: {error}"))
    return layer


def dotenv_layer(path: Path, model: type[Section]) -> Layer:
    """The layer of a `.env` file. Unknown variables with our prefixes are problems; others are not ours to judge."""
    layer = Layer()
    known = {item.variable: item.key for item in settings_of(model)}
    try:
        with path.open(encoding="utf-8") as stream:
            for binding in parse_stream(stream):
                origin = f"{path.name} ({path}:{binding.original.line})"
                if binding.error:
                    layer.problems.append(Problem(path.name, origin, "not of the form NAME=value"))
                elif binding.key in known and binding.value:
                    layer.entries[known[binding.key]] = Entry(binding.value, origin)
                elif binding.key and _is_ours(binding.key) and binding.key not in known:
                    message = f"no setting has this variable.{did_you_mean(binding.key, known)}"
                    layer.problems.append(Problem(binding.key, origin, message))
    except (OSError, UnicodeDecodeError) as error:
        layer.problems.append(Problem(path.name, str(path), f"cannot be read: {error}"))
    return layer


def environment_layer(environ: Mapping[str, str], model: type[Section]) -> Layer:
    """The layer of the process's environment. An empty variable counts as not set.

    Other programs have variables that begin with `GPU_` too, so an unknown one is only warned of, and only when it
    looks like one of ours; one that begins with `IDLEGRID_` always is.
    """
    layer = Layer()
    known = {item.variable: item.key for item in settings_of(model)}
    for name, value in environ.items():
        origin = f"environment {name}"
        if name in known:
            if value:
                layer.entries[known[name]] = Entry(value, origin)
        elif _is_ours(name) and (name.startswith("IDLEGRID_") or nearest(name, known, likeness=0.85)):
            message = f"no setting has this variable, it is ignored.{did_you_mean(name, known)}"
            layer.warnings.append(Problem(name, origin, message))
    return layer


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIXES) and name not in FOREIGN


@dataclass(frozen=True, slots=True)
class _YamlReader:
    """Walks one file along the model and fills the layer."""

    path: Path
    loader: yaml.SafeLoader
    keys: tuple[str, ...]
    """Every key that there is."""
    layer: Layer

    def read(self, node: yaml.MappingNode, model: type[Section], prefix: str = "") -> None:
        """Add what stands under one mapping."""
        seen: set[str] = set()
        for name_node, value in node.value:
            name = str(self.loader.construct_object(name_node, deep=True))
            key = f"{prefix}{name}"
            if name in seen:
                self._problem(key, value, "given twice")
            elif name not in model.model_fields:
                self._problem(key, value, f"no such key.{self._suggest(name, model, prefix)}")
            elif (section := section_of(model.model_fields[name])) is not None:
                self._section(key, value, section)
            else:
                self.layer.entries[key] = Entry(self.loader.construct_object(value, deep=True), self._origin(value))
            seen.add(name)

    def _section(self, key: str, value: yaml.Node, section: type[Section]) -> None:
        if isinstance(value, yaml.MappingNode):
            self.read(value, section, f"{key}.")
        elif self.loader.construct_object(value, deep=True) is not None:
            self._problem(key, value, f"a section, not a value. It has: {', '.join(section.model_fields)}")

    def _suggest(self, name: str, model: type[Section], prefix: str) -> str:
        """The nearest key beside `name`, else the key whose last part is the nearest."""
        if (found := nearest(name, model.model_fields)) is not None:
            return f" Did you mean {prefix + found!r}?"
        by_last_part = {key.rpartition(".")[2]: key for key in reversed(self.keys)}
        found = nearest(name, by_last_part)
        return f" Did you mean {by_last_part[found]!r}?" if found else ""

    def _origin(self, node: yaml.Node) -> str:
        return f"{self.path.name} ({self.path}:{node.start_mark.line + 1})"

    def _problem(self, key: str, node: yaml.Node, message: str) -> None:
        self.layer.problems.append(Problem(key, self._origin(node), message))

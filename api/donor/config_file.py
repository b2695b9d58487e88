"""The owner's `config.yaml`: one value changed in it, everything else left as the owner wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...grid.config import ConfigError, Loaded, Settings, load_settings
from ...grid.config.fields import Setting, settings_of
from ...grid.suggest import did_you_mean, nearest
from .face import NotAllowed
from .state import write_private

KNOWN: Mapping[str, Setting] = {item.key: item for item in settings_of(Settings)}
"""Every setting that there is, by its dotted key."""
_HOURS = ("load_control.working_hours_start", "load_control.working_hours_end")
HEAD = """\
# What this machine lends to a grid. `gpu-worker set KEY VALUE` changes it, and so may you;
# `gpu-worker configure` asks again. docs/configuration.md lists every key.
"""


def full_key(key: str) -> str:
    """The dotted key that is meant; the section may be left out. Raises ValueError with the nearest one."""
    if key in KNOWN:
        return key
    named = [one for one in KNOWN if one.rpartition(".")[2] == key]
    if len(named) == 1:
        return named[0]
    if named:
        raise ValueError(f"{key!r} is more than one setting: {', '.join(named)}")
    last = {one.rpartition(".")[2]: one for one in KNOWN}
    meant = nearest(key, last) if "." not in key else None  # who leaves the section out has the last word in mind
    hint = f" Did you mean {last[meant]!r}?" if meant is not None else did_you_mean(key, KNOWN)
    raise ValueError(f"no setting is called {key!r}.{hint}")


def change(path: Path, key: str, value: str) -> Loaded:
    """Set `key` to `value` in the file, which is made if need be. The settings that are in force then.

    Raises ValueError with what is allowed; then the file is as it was.
    """
    return change_many(path, {key: value})


def change_many(path: Path, values: Mapping[str, str]) -> Loaded:
    """Set several keys, all of them or none. Raises NotAllowed."""
    text, loaded = check(path, values)
    write_private(path, text)
    return loaded


def check(path: Path, values: Mapping[str, str]) -> tuple[str, Loaded]:
    """What the file would hold, and what would be in force. Raises NotAllowed."""
    named = _full_keys(values)
    text = (path.read_text(encoding="utf-8") if path.is_file() else "") or HEAD
    for key, value in named.items():
        typed = _typed(KNOWN[key], value)
        both = all(one in named for one in _HOURS)  # then each is what it was said to be
        for name, one in [(key, typed)] if both else _together(text, key, typed):
            text = with_value(text, name, one)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    write_private(draft, text)
    try:
        load_settings(draft, environ={})  # whether it is allowed, whatever the environment says
        return text, load_settings(draft)
    except ConfigError as error:
        raise _not_allowed(error, list(named), draft, path) from None
    finally:
        draft.unlink(missing_ok=True)


def _full_keys(values: Mapping[str, str]) -> dict[str, str]:
    found, unknown = {}, {}
    for key, value in values.items():
        try:
            found[full_key(key)] = value
        except ValueError as error:
            unknown[key] = str(error)
    if unknown:
        raise NotAllowed(unknown)
    return found


def _not_allowed(error: ConfigError, keys: list[str], draft: Path, path: Path) -> NotAllowed:
    """What is wrong, with the settings that it is about; what is about none of them stands at the first."""
    refused: dict[str, str] = {}
    for problem in error.problems:
        told = str(problem).replace(str(draft), str(path)).replace(draft.name, path.name)
        about = [key for key in keys if key == problem.key or key.startswith(f"{problem.key}.")] or keys[:1]
        refused.update({key: told for key in about if key not in refused})
    return NotAllowed(refused)


def _together(text: str, key: str, value: Any) -> list[tuple[str, Any]]:
    """The settings that change with one: of the hours of a day, one without the other means from or until midnight."""
    if key not in _HOURS:
        return [(key, value)]
    other = _HOURS[1 - _HOURS.index(key)]
    section = (yaml.safe_load(text) or {}).get("load_control") or {}
    held = section.get(other.rpartition(".")[2]) if isinstance(section, dict) else None
    if (held is None) == (value is None):
        return [(key, value)]
    return [(key, value), (other, None if value is None else 0)]


def with_value(text: str, key: str, value: Any) -> str:
    """A YAML text with one value set; its other lines, comments and order stay."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ValueError("the file must hold keys with values; mend or delete it first")
    place: yaml.MappingNode | None = root
    names = key.split(".")
    while place is not None and len(names) > 0:
        found = _child(place, names[0])
        if found is None:
            break
        if len(names) == 1:
            return _replaced(text, found[1], value)
        if not isinstance(found[1], yaml.MappingNode):
            return _rewritten(text, key, value)
        place, names = found[1], names[1:]
    if place is root or place is None:
        return "\n".join([*lines, *_block(names, value, "")]) + "\n"
    if place.flow_style:
        return _rewritten(text, key, value)
    column, row = place.start_mark.column, _row_of_next(place)
    return "\n".join([*lines[:row], *_block(names, value, " " * column), *lines[row:]]) + "\n"


def _row_of_next(place: yaml.MappingNode) -> int:
    """Where a further line of this section goes: behind its last one if that is a plain value, else first."""
    last = place.value[-1][1]
    return last.end_mark.line + 1 if isinstance(last, yaml.ScalarNode) and last.value else place.start_mark.line


def _child(place: yaml.MappingNode, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((one, two) for one, two in place.value if one.value == name), None)


def _replaced(text: str, node: yaml.Node, value: Any) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    told = _scalar(value)
    if start == end:  # nothing stood there
        told = f" {told}" if text[start - 1 : start] != " " else told
    return text[:start] + told + text[end:]


def _block(names: list[str], value: Any, indent: str) -> list[str]:
    lines = [f"{indent}{'  ' * depth}{name}:" for depth, name in enumerate(names)]
    lines[-1] += f" {_scalar(value)}"
    return lines


def _rewritten(text: str, key: str, value: Any) -> str:
    """Where a section is written in braces: the whole file in the usual form, without its comments."""
    root: dict[str, Any] = yaml.safe_load(text) or {}
    *sections, name = key.split(".")
    place = root
    for section in sections:
        if not isinstance(place.get(section), dict):
            place[section] = {}
        place = place[section]
    place[name] = value
    dumped: str = yaml.safe_dump(root, sort_keys=False, allow_unicode=True)
    return HEAD + dumped


def _scalar(value: Any) -> str:
    told: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return told.removesuffix("\n").removesuffix("\n...")


def _typed(item: Setting, value: str) -> Any:
    """The value as YAML has it: a number, true, a list, or the text itself. `none` empties what may be empty."""
    if item.default is None and value.strip().lower() in ("none", "auto", ""):
        return None
    if isinstance(item.default, str) or "text" in item.allowed:
        return value
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return found if isinstance(found, int | float | bool | str | list) else value

"""The settings as documents: `config.example.yaml` and the table in `docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from .fields import Section, Setting, section_of, settings_of
from .settings import Settings

_EXAMPLE_HEAD = """\
# Every setting of idlegrid with its default. Copy to config.yaml and keep the lines that you change.
# A variable of the environment wins over .env, .env over this file. `idlegrid config show --origin` tells what holds.
# Made by scripts/generate-docs: change grid/config, not this file.
"""


def example_yaml() -> str:
    """Every setting, commented, with its default as its value. A setting without a default is commented out."""
    described = {item.key: item for item in settings_of(Settings)}
    return _EXAMPLE_HEAD + "\n".join(_example(Settings, described, "", 0)) + "\n"


def reference_table() -> str:
    """A Markdown table of every key, variable, default, permitted values and meaning."""
    lines = ["| key | variable | default | allowed | meaning |", "|---|---|---|---|---|"]
    for item in settings_of(Settings):
        default = item.unset if item.default is None or item.default == {} else f"`{item.show(item.default)}`"
        unit = f" {item.unit}" if item.unit and item.default is not None else ""
        cells = (f"`{item.key}`", f"`{item.variable}`", default + unit, item.allowed, item.description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _example(model: type[Section], described: dict[str, Setting], prefix: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield from _example_lines(name, described[f"{prefix}{name}"], indent)
        else:
            summary = (section.__doc__ or "").splitlines()[0]
            yield from (("",) if depth == 0 else ())
            yield f"{indent}{name}:  # {summary}"
            yield from _example(section, described, f"{prefix}{name}.", depth + 1)


def _example_lines(name: str, item: Setting, indent: str) -> Iterator[str]:
    unit = f" In {item.unit}." if item.unit else ""
    yield f"{indent}# {item.description}{unit}"
    yield f"{indent}# {item.variable}: {item.allowed}"
    if item.default is None and item.unset != "auto":
        yield f"{indent}# {name}:  # {item.unset}"
    else:
        yield f"{indent}{name}: {_inline(item.unset if item.default is None else item.default)}"


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()

"""`gpu-worker configure`: what this machine lends, asked in plain words. `join` asks the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import ConfigFile
from .output import say, tell
from .worker_options import HomeFolder, Name, RegionCode, Yes, home_of

if TYPE_CHECKING:
    from ...grid.config import Settings
    from ..donor.state import Home

_WEEK = "mon-fri 18:00-08:00, sat-sun 00:00-24:00"
_QUESTIONS = (
    ("name", "Name of this machine, as others see it"),
    ("region", "Region in which it stands"),
    ("load_control.schedule", f"When may it work? `always`, or days and times such as {_WEEK}"),
    ("load_control.max_concurrent_jobs", "Jobs at the same time"),
    ("load_control.max_gpu_memory_percent", "Percent of the GPU's memory that may be filled"),
    ("load_control.only_when_idle_minutes", "Only when nobody used the machine for so many minutes; 0: always"),
)
"""Setting and question."""


def configure(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="The grid, if it is known already.")] = None,
    pull: Annotated[bool, typer.Option("--pull", help="Explain what --pull means for this machine.")] = False,
    yes: Yes = False,
    name: Name = None,
    region: RegionCode = None,
    config: ConfigFile = None,
    home: HomeFolder = None,
) -> None:
    """Say what this machine lends, and see what that means.

    Looks at the GPU, the memory and the time zone, proposes, explains what will run here and what others can see, and
    writes config.yaml. Asks again at any time; `gpu-worker set` changes one thing.
    """
    from dataclasses import replace

    place = home_of(home)
    if config is not None:
        place = replace(place, config=config)
    ask(place, url, pull=pull, yes=yes, given={"name": name, "region": region})
    say(f"written  {place.config}")


def ask(home: Home, url: str | None, *, pull: bool, yes: bool, given: Mapping[str, str | None]) -> None:
    """Settle the settings of a home: what is given, else what is asked (not with `yes`), else what is proposed.

    Raises typer.BadParameter on what is given and not allowed, ConfigError on a file that can't be used.
    """
    from ..donor.config_file import change
    from ..donor.joining import load
    from ..donor.proposing import explained, look, proposal

    loaded, machine = load(home), look()
    named = {key: value for key, value in given.items() if value is not None}
    if url is not None:
        named["server.url"] = url.rstrip("/")
    home.make()
    for key, value in named.items():
        try:
            change(home.config, key, value)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=f"{key} {value}") from None
    for key, value in proposal(machine, loaded.settings).items():
        if key not in named and loaded.origins[key] == "default":
            change(home.config, key, str(value))
    if not yes:
        for key, value in _answers(home, frozenset(named)):
            change(home.config, key, value)
    values = load(home).settings
    for line in explained(machine, values, values.server.url, pull=pull):
        say(line)
    if not yes:
        typer.confirm("Is that what you want?", default=True, abort=True)


def _answers(home: Home, named: frozenset[str]) -> Iterator[tuple[str, str]]:
    """What the owner says to each question that has a setting here and was not answered on the command line."""
    from ..donor.config_file import KNOWN
    from ..donor.joining import load

    values = load(home).settings
    for key, question in _QUESTIONS:
        if key in named or key not in KNOWN:
            continue
        usual = _value(values, key)
        shown = "always" if usual is None else str(usual)
        answer = _asked(home, key, question, shown)
        if answer != shown:
            yield key, "none" if answer == "always" else answer


def _asked(home: Home, key: str, question: str, usual: str) -> str:
    """An answer that is allowed."""
    from ..donor.config_file import check

    while True:
        answer: str = typer.prompt(question, default=usual).strip()
        if answer == usual:
            return answer
        try:
            check(home.config, {key: "none" if answer == "always" else answer})
        except ValueError as error:
            tell(str(error), label="no:", style="yellow")
            continue
        return answer


def _value(values: Settings, key: str) -> Any:
    found: Any = values
    for name in key.split("."):
        found = getattr(found, name)
    return found

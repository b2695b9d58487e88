"""`idlegrid deploy` and `idlegrid undeploy`: which language models a grid serves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ..strip import strip_lines
from .options import ApiKey, ConfigFile, Url
from .output import Json, print_json, say, tell
from .service import service

if TYPE_CHECKING:
    from ..client import GridClient

Model = Annotated[str, typer.Argument(metavar="MODEL", help="See `idlegrid models`; or a folder.", show_default=False)]
LOOK_EVERY = 0.5
"""Seconds between two looks while a command waits."""


def deploy(
    model: Model,
    replicas: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Copies of the model.", show_default="1")
    ] = None,
    stages: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Split each replica over N workers; 0: over as many as it takes.",
            show_default="not split",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="RANGES", help="The stages, by their layers: 0-9,10-21.", show_default="not split"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="auto, torch, transformers or vllm.", show_default="torch")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="TYPE", help="auto, float32, bfloat16 …", show_default="auto")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu or cuda.", show_default="auto")] = None,
    region: Annotated[
        str | None, typer.Option("--region", "-r", metavar="CODE", help="Where it should stand.", show_default="any")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all replicas serve; 1 if they don't.")] = False,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="With --wait: how long.")] = 900.0,
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Have the grid serve a language model, until it is undeployed.

    A model that is deployed already is changed: what is not named stays as it is. Wanted models are kept in the grid's
    database, so they are served again when it is started anew.
    """
    named = {
        "replicas": replicas,
        "stages": stages,
        "layers": None if layers is None else ranges(layers),
        "engine": engine,
        "dtype": dtype,
        "device": device,
        "region": region,
    }
    wanted = {name: value for name, value in named.items() if value is not None}
    with service(url, api_key, config) as grid:
        told, what = _want(grid, model, wanted)
        if not as_json:
            say(f"{told['model']} is {what}, version {told['version']}")
        ready = True
        if wait:
            told = _waited(grid, told, timeout)
            ready = told["state"] == "ready"
    if as_json:
        print_json(told)
    elif wait and ready:
        say(f"{told['ready']} of {told['replicas']} replicas serve")
        for line in strip_lines(told):
            say(line)
    if not ready:
        tell(told["why"] or f"it is {told['state']}", label="error:", style="bold red")
        raise typer.Exit(1)


def undeploy(
    model: Model, url: Url = None, api_key: ApiKey = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Have the grid serve a language model no more.

    Answers of it that are under way end with an error.
    """
    from ..client import Refused

    with service(url, api_key, config) as grid:
        try:
            told = grid.undeploy(model)
        except Refused as refusal:
            if refusal.code != "deployment_not_found":
                raise
            _not_deployed(grid, model)
    if as_json:
        print_json(told)
    else:
        say(f"{told['model']} is not wanted any more")


def ranges(text: str) -> list[list[int]]:
    """Ranges of layers as they are typed, last one included, as first and the one after the last."""
    parts = []
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise typer.BadParameter(f"{word!r} is no range of layers such as 0-9", param_hint="--layers")
        parts.append([int(first), int(last if dash else first) + 1])
    return parts


def _want(grid: GridClient, model: str, wanted: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The deployment as it is now wanted, and what was done."""
    from ..client import Refused

    try:
        return grid.deploy(model, **wanted), "wanted"
    except Refused as refusal:
        if refusal.code != "already_deployed":
            raise
    before = grid.deployment(model)
    told = grid.change_deployment(model, **wanted)
    return told, "wanted already" if told["version"] == before["version"] else "changed"


def _waited(grid: GridClient, told: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The deployment once it serves, can't, or the time is over. Says what it waits for, whenever that changes."""
    version, ends, said = told["version"], time.monotonic() + timeout, ""
    while True:
        told = grid.deployment(told["model"])
        current = told["reported_version"] >= version
        if (current and told["state"] in ("ready", "refused")) or not told["wanted"] or time.monotonic() > ends:
            return told
        why = told["why"] if current else "nobody has taken it up yet: a process of `idlegrid api` does"
        if why and why != said:
            tell(why)
            said = why
        time.sleep(LOOK_EVERY)


def _not_deployed(grid: GridClient, model: str) -> NoReturn:
    from ...grid.suggest import did_you_mean

    known = [one["model"] for one in grid.deployments()["deployments"] if one["wanted"]]
    some = f"; {', '.join(known)} {'is' if len(known) == 1 else 'are'}" if known else "; no model is"
    tell(f"{model} is not deployed{some}.{did_you_mean(model, known)}", label="error:", style="bold red")
    raise typer.Exit(1)

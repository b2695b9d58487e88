"""Options that several commands have, so that they are called and explained alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file.", show_default="./config.yaml", exists=True, dir_okay=False),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        "-s",
        metavar="ADDRESS",
        help="Scheduler to connect to, e.g. tcp://host:8786.",
        show_default="scheduler.address of the configuration, else this machine's",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="HTTP service of the grid.",
        show_default="server.url, else where this machine's listens",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="API key; others on this machine can see a typed one.",
        show_default="IDLEGRID_API_KEY",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", "-w", min=1, metavar="N", help="Workers to start.", show_default="one per GPU, else one per core"
    ),
]
Regions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        "-r",
        metavar="CODE",
        help="Pretend that the workers stand there, dealt out in turn; repeatable.",
        show_default="the configured one",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        "-p",
        min=0,
        max=65535,
        metavar="PORT",
        help="Port to listen on; 0 takes any free one.",
        show_default="the configured one",
    ),
]
Llms = Annotated[
    list[str] | None,
    typer.Option(
        "--llm",
        metavar="MODEL",
        help="Keep a replica of this language model on the grid, and serve it; repeatable.",
        show_default="none",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="See `idlegrid models`.", show_default="its type's default"),
]
MaxErrorRatio = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="SHARE", help="Stop when more rows than this have an error.", show_default="never"
    ),
]
StorageOptions = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="For fsspec, e.g. endpoint_url=…; repeatable.")
]
MediaDtype = Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, float16 or bfloat16.")]
Prefix = Annotated[str, typer.Option(metavar="NAME", help="Before the names of the result columns.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]


def pairs(words: list[str] | None, option: str = "--storage-option") -> dict[str, Any] | None:
    """The values of an option that takes KEY=VALUE."""
    if not words:
        return None
    for word in words:
        if "=" not in word:
            raise typer.BadParameter(f"{word!r} is not KEY=VALUE", param_hint=option)
    return dict(word.split("=", 1) for word in words)

"""`idlegrid generate`: a picture for every row of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from .bulk import BulkCommand, bulk_command
from .options import MediaDtype, Model, Prefix


@bulk_command("drawing", result="picture")
def generate(
    command: BulkCommand,
    prompt_column: Annotated[
        str, typer.Option("--prompt-column", "-c", metavar="NAME", help="Column with what is to be drawn.")
    ],
    model: Model = None,
    negative_prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What should be in none of the pictures.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="WxH", help="Width and height in pixels.")] = "1024x1024",
    steps: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of the denoiser.", show_default="the model's own")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Each row's own seed follows from it: again the same pictures.")
    ] = 0,
    files: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where pictures go as files; without it they are bytes in the column."),
    ] = None,
    dtype: MediaDtype = "auto",
    prefix: Prefix = "",
) -> None:
    """Draw a picture for every row of a Parquet dataset.

    The same rows come out, in order, with the columns image (PNG), seed and error more.
    """
    from ...pipelines.bulk import generate_parquet

    width, height = _sides(size)
    command.run(
        generate_parquet,
        prompt_column=prompt_column,
        model=model,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        files=files,
        dtype=dtype,
        prefix=prefix,
    )


def _sides(size: str) -> tuple[int, int]:
    """Width and height. Raises BadParameter."""
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{size!r} is no size such as 1024x768", param_hint="--size")
    return int(width), int(height)

"""`idlegrid caption`: what is to be seen in every picture of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from .bulk import BulkCommand, bulk_command
from .options import MediaDtype, Model, Prefix


@bulk_command("looking", result="answer")
def caption(
    command: BulkCommand,
    image_column: Annotated[
        str, typer.Option("--image-column", "-c", metavar="NAME", help="Column with files as bytes, or paths or URLs.")
    ],
    model: Model = None,
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="About each picture; without it a caption is written.")
    ] = None,
    ocr: Annotated[bool, typer.Option("--ocr", help="The text in each picture instead.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Of an answer, at most.")] = 1024,
    dtype: MediaDtype = "auto",
    prefix: Prefix = "",
) -> None:
    """Say what is in every picture of a Parquet dataset.

    The same rows come out, in order, with the columns response, finish_reason, prompt_tokens, completion_tokens and
    error more.
    """
    if ocr and question is not None:
        raise typer.BadParameter("--ocr reads the text in each picture and answers no --question: give one of them")
    from ...pipelines.bulk import caption_parquet

    command.run(
        caption_parquet,
        image_column=image_column,
        model=model,
        task="ocr" if ocr else None,
        question=question,
        max_tokens=max_tokens,
        dtype=dtype,
        prefix=prefix,
    )

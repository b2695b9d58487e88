"""`idlegrid chat`: an answer to every row of a Parquet dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .bulk import BulkCommand, bulk_command
from .options import Model, Prefix


@bulk_command("answering", result="answer")
def chat(
    command: BulkCommand,
    prompt_column: Annotated[
        str | None, typer.Option("--prompt-column", "-c", metavar="NAME", help="Column with a question in each row.")
    ] = None,
    messages_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead: column with conversations, as JSON or lists of role and content."),
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message before each row's own.")] = None,
    model: Model = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0: always the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens that have this share.")] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, metavar="N", help="Choose among so many tokens; 0: all.")] = 0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Each row's own seed follows from it: again the same answers.")
    ] = 0,
    stop: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Ends an answer; repeatable.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Answers are JSON of this schema.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, float32, bfloat16 or float16.")] = "auto",
    engine: Annotated[str, typer.Option(metavar="NAME", help="torch or transformers.")] = "torch",
    prefix: Prefix = "",
) -> None:
    """Ask a model about every row of a Parquet dataset.

    The same rows come out, in order, with the columns response, finish_reason, prompt_tokens, completion_tokens,
    cached_tokens and error more.
    """
    if (prompt_column is None) == (messages_column is None):
        raise typer.BadParameter("name the column to answer: either --prompt-column or --messages-column")
    from ...pipelines.bulk import chat_parquet

    command.run(
        chat_parquet,
        prompt_column=prompt_column,
        messages_column=messages_column,
        system=system,
        model=model,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stop=stop or (),
        json_schema=None if json_schema is None else json_schema.read_text(encoding="utf-8"),
        dtype=dtype,
        engine=engine,
        prefix=prefix,
    )

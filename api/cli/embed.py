"""`idlegrid embed`: vectors for a column of a Parquet dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from .bulk import BulkCommand, bulk_command
from .options import Model


@bulk_command("embedding", result="result")
def embed(
    command: BulkCommand,
    column: Annotated[str, typer.Option("--column", "-c", metavar="NAME", help="The text column.")],
    model: Model = None,
    normalize: Annotated[bool, typer.Option(help="Scale every vector to length 1.")] = True,
    dimensions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep only the first N values of each vector.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="auto, bfloat16 or float32.")] = "auto",
    backend: Annotated[str, typer.Option(metavar="NAME", help="auto, torch or openvino.")] = "auto",
    embedding_column: Annotated[str, typer.Option(metavar="NAME", help="Name of the result column.")] = "embedding",
) -> None:
    """Embed a text column of a Parquet dataset.

    The same rows come out, in order, with the vector and an error column more.
    """
    from ...pipelines.bulk import embed_parquet

    command.run(
        embed_parquet,
        column=column,
        model=model,
        normalize=normalize,
        dimensions=dimensions,
        dtype=dtype,
        backend=backend,
        embedding_column=embedding_column,
    )

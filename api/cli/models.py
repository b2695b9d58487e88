"""`idlegrid models`: the catalogue."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from .output import Json, print_json, print_table


def models(
    job_type: Annotated[str | None, typer.Option("--type", help="Only the models of this job type.")] = None,
    as_json: Json = False,
) -> None:
    """List the models known to work and the GPU memory that each needs.

    Any other Hugging Face id or local folder can be given wherever a model is asked for.
    """
    from ...grid import catalogue

    entries = catalogue.models(job_type)
    if as_json:
        print_json([dataclasses.asdict(entry) | {"memory_gb": dict(entry.memory_gb)} for entry in entries])
        return
    print_table(
        "",
        ["type", "model", "GPU memory", "default", "note"],
        ([e.type, e.id, f"{e.gpu_memory_gb:g} GB", "yes" if e.default else "", e.note] for e in entries),
    )

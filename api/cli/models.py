"""`idlegrid models`: the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Json, print_json, print_table

if TYPE_CHECKING:
    from ...grid.catalogue import ModelEntry


def models(
    job_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only the models of this job type.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models that are known to work.

    With the GPU memory that each needs. Any other Hugging Face id or local folder can be given wherever a model is
    asked for.
    """
    from ...grid import catalogue
    from ...grid.suggest import did_you_mean

    entries = catalogue.models(job_type)
    if not entries:
        known = sorted({entry.type for entry in catalogue.models()})
        raise typer.BadParameter(
            f"no models of type {job_type!r}; the types are {', '.join(known)}.{did_you_mean(str(job_type), known)}",
            param_hint="--type",
        )
    if as_json:
        print_json([_document(entry) for entry in entries])
        return
    columns = ("type", "model", "GPU memory", "default", "note")
    rows = ([e.type, e.id, f"{e.gpu_memory_gb:g} GB", "yes" if e.default else "", e.note] for e in entries)
    print_table(columns, rows, whole=columns[:-1])


def _document(entry: ModelEntry) -> dict[str, Any]:
    names = ("id", "type", "aliases", "default", "proven", "dtype", "gpu_memory_gb", "package", "note")
    return {name: getattr(entry, name) for name in names} | {"memory_gb": dict(entry.memory_gb)}

"""`idlegrid models`: the catalogue; `idlegrid models pin`: the models' lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import Json, print_json, print_table, tell

if TYPE_CHECKING:
    from ...grid.catalogue import ModelEntry

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def models(
    context: typer.Context,
    job_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only the models of this job type.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the models that are known to work.

    With the GPU memory that each needs. Any other Hugging Face id or local folder can be given wherever a model is
    asked for.
    """
    if context.invoked_subcommand is not None:
        return
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


@app.command("pin")
def pin(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Short name, Hugging Face id or local folder.")],
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Commit, branch or tag on the hub; else its newest.")
    ] = None,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Fetch the model's own modules too: to look at them, and to allow them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pin a model to the files that it has now.

    Its revision and the SHA-256 of each file that it is loaded from go into the models' lock. From then on no other
    files are loaded under this name. The model is fetched if it is not here.
    """
    from ...actors.pinning import pinned

    made = pinned(model, revision=revision, code=with_code)
    if as_json:
        print_json(made.document())
        return
    tell(f"{made.name}: {len(made.locked.files)} files pinned in {made.lock}")
    tell(f"revision  {made.locked.revision or 'none: a local folder'}")
    tell(f"content   {made.locked.content}")
    if made.modules:
        tell(f"It has code of its own: {', '.join(made.modules)}. Read it in {made.folder}; to let it run here:")
        tell(f"models.remote_code: {{{made.name}: {made.locked.content}}}")

"""`idlegrid jobs`: durable jobs, over HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .options import ApiKey, ConfigFile, Url
from .output import Json, print_json, print_table, say
from .service import service
from .settings import settings

if TYPE_CHECKING:
    from ..client import Job, JobOptions

app = typer.Typer(
    help="Submit jobs and see what becomes of them.\n\n"
    "They talk with the HTTP service of a grid; `purge` works on its database.",
    no_args_is_help=True,
)
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.", show_default=False)]
_STYLES = {"completed": "green", "running": "yellow", "failed": "red", "timeout": "red", "cancelled": "dim"}


@app.command()
def ls(
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="Only jobs that stand so.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only jobs of this type.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, metavar="N", help="Jobs to show.")] = 50,
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on where an earlier list ended.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """List your jobs, newest first."""
    with service(url, api_key, config) as grid:
        page = grid.jobs(status=status, type=job_type, limit=limit, cursor=cursor)
    if as_json:
        print_json({"jobs": [job.document for job in page.jobs], "next_cursor": page.next_cursor})
        return
    columns = ("job", "type", "status", "tries", "age", "worker", "error")
    now = datetime.now(UTC)
    rows = (
        [j.id, j.type, _status(j), j.attempts, _age(j.created_at, now), j.worker_id or "", j.error or ""]
        for j in page.jobs
    )
    print_table(columns, rows, whole=columns[:5])
    if page.next_cursor:
        say(f"more: --cursor {page.next_cursor}")


@app.command()
def show(
    job_id: JobId, url: Url = None, api_key: ApiKey = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Show a job: how it stands, and its result once it has one."""
    with service(url, api_key, config) as grid:
        _print_job(grid.job(job_id), as_json)


@app.command()
def submit(
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="Job type, e.g. llm.", show_default=False)],
    params: Annotated[
        str,
        typer.Argument(
            metavar="PARAMS", help="Its parameters as JSON; @FILE reads a file, - standard input.", show_default=False
        ),
    ],
    priority: Annotated[int, typer.Option(min=-100, max=100, metavar="N", help="Higher first.")] = 0,
    region: Annotated[
        str | None,
        typer.Option("--region", "-r", metavar="CODE", help="Preferred region.", show_default="by your address"),
    ] = None,
    only_there: Annotated[bool, typer.Option("--only-there", help="No worker of another region.")] = False,
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="Time that one attempt has.")] = 300.0,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="The same key gives the first job again.",
            show_default="a new one",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended; 1 unless it is completed.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Submit a job. Once its id is printed, it ends exactly once, whatever dies."""
    values = _params(params)
    options: JobOptions = {"priority": priority, "timeout_seconds": timeout, "allow_cross_region": not only_there}
    if region is not None:
        options["region"] = region
    if key is not None:
        options["idempotency_key"] = key
    with service(url, api_key, config) as grid:
        job: Job = grid.submit(job_type, values, **options)
        if wait:
            job = grid.wait(job)
    if wait or as_json:
        _print_job(job, as_json)
    else:
        say(job.id)
    if wait and job.status != "completed":
        raise typer.Exit(1)


@app.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The jobs' ids.", show_default=False)],
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Cancel jobs, queued or running. A running one ends when its worker has stopped."""
    with service(url, api_key, config) as grid:
        jobs = [grid.cancel(job_id) for job_id in job_ids]
    if as_json:
        print_json([job.document for job in jobs])
        return
    for job in jobs:
        asked = job.document.get("cancel_requested") and not job.status.final
        say(f"{job.id}: {'its worker is told to stop' if asked else job.status}")


@app.command()
def events(
    job_id: JobId,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Begin behind this event.")] = 0,
    url: Url = None,
    api_key: ApiKey = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line.")] = False,
) -> None:
    """Follow a job: each change, its progress and its tokens, until it has ended."""
    with service(url, api_key, config) as grid:
        for event in grid.stream(job_id, after=after):
            if as_json:
                typer.echo(json.dumps({"seq": event.seq, "kind": event.kind, "data": event.data}))
            else:
                say(f"{event.seq:>6}  {event.kind:<8}  {_words(event.data)}")


@app.command()
def why(
    job_id: JobId, url: Url = None, api_key: ApiKey = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Say why a job waits, or where it ran.

    Every worker that was considered, with its verdict and the reason: now while it waits, later as it was when the job
    was placed.
    """
    with service(url, api_key, config) as grid:
        told = grid.why(job_id)
    if as_json:
        print_json(told.document)
        return
    say(told.summary)
    columns = ("worker", "region", "verdict", "score", "why")
    rows = [
        [it.worker, it.region or "", it.verdict, "" if it.score is None else f"{it.score:.3g}", it.detail]
        for it in told.workers
    ]
    if told.placed_at is not None:
        say(f"said when it was placed, at {told.placed_at:%Y-%m-%d %H:%M:%S %Z}:")
    if rows:
        print_table(columns, rows, whole=columns[:4])
    if others := _others(told.document):
        say(f"and {others}")
    _print_attempts(told.document.get("attempts") or ())


@app.command()
def purge(
    client: Annotated[
        str, typer.Option(metavar="ID", help="Whose jobs: the client of an API key.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Delete all that is kept of a client: jobs, results, events and usage, files and batches, ended or not.

    It works on the database itself (database.url); no service need run. What is in files goes as soon as one runs. It
    can't be undone.
    """
    from .store import opened

    if not yes:
        typer.confirm(f"Delete all that is kept of client {client!r}?", abort=True)
    with opened(settings(config)) as store:
        purged = store.jobs.purge(client)
    if as_json:
        print_json({"client_id": client} | asdict(purged))
    else:
        kept = f"{purged.jobs} jobs, {purged.usage} records of usage, {purged.files} files and {purged.batches} batches"
        say(f"deleted {kept} of client {client!r}")


def _params(text: str) -> Mapping[str, Any]:
    """Parameters that are typed, in a file, or on standard input."""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        values = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"no JSON to be had: {error}", param_hint="PARAMS") from error
    if not isinstance(values, dict):
        raise typer.BadParameter("a JSON object is needed", param_hint="PARAMS")
    return values


def _print_job(job: Job, as_json: bool) -> None:
    if as_json:
        print_json(job.document)
        return
    told = {name: value for name, value in job.document.items() if value is not None and name != "result"}
    width = max(map(len, told))
    for name, value in told.items():
        say(f"{name:<{width}}  {_text(value)}")
    if job.result is not None:
        say(json.dumps(job.result, indent=2, ensure_ascii=False))


def _print_attempts(attempts: Sequence[Mapping[str, Any]]) -> None:
    for number, it in enumerate(attempts, 1):
        outcome = it.get("outcome") or "goes on"
        detail = f" ({it['detail']})" if it.get("detail") else ""
        say(f"try {number}: {it.get('worker_id') or 'no worker began it'}, {outcome}{detail}")


def _others(document: Mapping[str, Any]) -> str:
    """Who was left out of the list because it was long, by verdict."""
    placed = [it["placement"] for it in document.get("attempts") or () if it.get("placement")]
    if not placed or document.get("placed_at") is None:
        return ""
    return ", ".join(f"{count} × {verdict}" for verdict, count in placed[-1]["others"].items())


def _status(job: Job) -> Text:
    return Text(str(job.status), style=_STYLES.get(job.status, ""))


def _age(at: datetime | None, now: datetime) -> str:
    """How long ago, in one unit."""
    if at is None:
        return ""
    seconds = max(0.0, (now - at).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(data: Mapping[str, Any]) -> str:
    return "  ".join(f"{name}={_text(value)}" for name, value in data.items() if value is not None)

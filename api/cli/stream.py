"""`idlegrid stream`: an endless source through the grid."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .grids import grid_for
from .options import Address, ConfigFile, Model, Regions, StorageOptions, Workers, pairs
from .output import Json, print_json, say, tell
from .progress import EVERY, Notices, clock, counted
from .settings import settings

if TYPE_CHECKING:
    from ...pipelines.stream import Stream, StreamStatus


def stream(
    type_: Annotated[str, typer.Argument(metavar="TYPE", help="Job type: embedding, llm …")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder to watch, or redis://HOST/0?stream=NAME.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Folder, fsspec URL, or redis://HOST/0?stream=NAME.")],
    column: Annotated[str, typer.Option("--column", "-c", metavar="NAME", help="Column or field to compute.")] = "text",
    model: Model = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of the type's bulk job, e.g. max_tokens=64."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="SUFFIX", help="Files like these are one record each, e.g. wav; repeatable."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the source has nothing more.")] = False,
    ordered: Annotated[
        bool, typer.Option(help="Keep the order of the records, or give results as they are done.")
    ] = True,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Records in one task, at most.")] = 64,
    in_flight: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Batches under way, at most.", show_default="4 for each worker thread"),
    ] = None,
    commit_seconds: Annotated[
        float, typer.Option(min=0.01, metavar="S", help="Results go to the target at least this often.")
    ] = 1.0,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Figures for Prometheus, on this machine.")
    ] = None,
    storage_option: StorageOptions = None,
    scheduler: Address = None,
    workers: Workers = None,
    region: Regions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Compute every record of an endless source.

    A folder that is watched, or a Redis stream: what is there, and what comes.

    Ctrl-C once: what was read is finished. Killed or stopped at any moment, the same command goes on where it was, and
    each record is in the target exactly once.
    """
    from ...pipelines.stream import Stream
    from ...pipelines.stream.flow import StreamOptions
    from ...pipelines.stream.kinds import spec_for
    from ...pipelines.stream.places import open_sink, open_source
    from ..stream_metrics import metrics_at

    storage = pairs(storage_option)
    spec = spec_for(type_, model, {name: _value(text) for name, text in (pairs(option, "--option") or {}).items()})
    chosen = StreamOptions(
        column=column, ordered=ordered, batch_records=batch, in_flight=in_flight, commit_seconds=commit_seconds
    )
    reading = open_source(source, spec, column=column, files=file, endless=not once, storage_options=storage)
    writing = open_sink(target, storage_options=storage)
    with grid_for(scheduler, workers, region, settings(config)) as client:
        notices = Notices()
        running = Stream(client, reading, spec, writing, chosen, listen=lambda now: _notice(notices, now))
        with running, metrics_at(running, metrics_port), _stopped_by_signals(running):
            _follow(running)
            report = running.wait()
    if as_json:
        print_json(asdict(report))
        return
    say(
        f"{counted(report.records, 'record')} in {clock(report.seconds)}, {report.errors:,} with an error; "
        f"{report.records_total:,} in {target}"
    )


def _value(text: str) -> Any:
    """Numbers, true, false and null as such, everything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _notice(notices: Notices, now: StreamStatus) -> None:
    if notices.new(now.notice):
        tell(now.notice)


def _follow(running: Stream) -> None:
    """A line now and then until it ends."""
    while True:
        try:
            running.wait(EVERY)
            return
        except TimeoutError:
            now = running.status()
            behind = f" · {now.backlog:,} to be read" if now.backlog is not None else ""
            done = f"{counted(now.records, 'record')} · {now.records_per_second:,.0f} records/s"
            late = f"{now.lag_seconds:.1f} s behind{behind}"
            tell(f"{done} · {counted(now.errors, 'error')} · {late} · {counted(now.workers, 'worker')}")


@contextmanager
def _stopped_by_signals(running: Stream) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends it in order, the second at once."""
    asked = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        tell("finishing what was read; once more ends at once")
        running.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

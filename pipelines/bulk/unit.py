"""What a worker does with one unit: read, compute, write, and put the part in its place. Runs as a Dask task."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from ...grid.failpoints import failpoint
from .cutting import Span
from .errors import TargetError
from .operators import OperatorSpec, RowOperator
from .overlap import Behind, ahead
from .part import PartFacts, PartWriter, parse_facts, read_facts
from .place import trouble, unseen, whoami
from .plan import belongs
from .rows import read_windows
from .schema import output_schema
from .source import SourceFile, Storage, check_unchanged, read_footer
from .target import Target, publish_part, sync
from .window import Done, compute, prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One attempt at one unit: everything that a worker needs. Small; travels with the task."""

    job: str
    part: str
    attempt: str
    """Names this attempt: its mark in the target tells whether it was ever begun."""
    storage: Storage
    file: SourceFile
    span: Span
    target: Target
    spec: OperatorSpec
    same: Mapping[str, Any]
    """What this worker's operator must share with the one that the job was planned with."""
    column: str
    error_column: str
    first_row: int = 0
    """Rows of the whole input before this file."""
    killed: Mapping[int, str] = field(default_factory=dict)
    """Row of the file → why it must not be touched again."""


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What the driver hears of a unit that is done."""

    facts: PartFacts
    mine: bool
    """False: another attempt was first, this one's part was discarded."""


def run_unit(work: Work) -> UnitResult:
    """Compute a unit and publish its part, unless that exists. Raises BulkError, whatever the cause."""
    try:
        return _run(work)
    except FileNotFoundError as error:
        raise unseen(error.filename or error) from error
    except OSError as error:
        raise trouble(_explain(error, work)) from error


def probe_unit(work: Work) -> int:
    """Read and compute the rows of a unit without writing anything: to find the row that kills. Returns the rows."""
    work.target.mark(started(work.part, work.attempt))
    operator = _operator(work)
    rows = 0
    with ahead(_prepared(work, operator)) as windows:
        for ready in windows:
            rows += ready.window.rows
            compute(ready, operator)
    return rows


def started(part: str, attempt: str) -> str:
    """Name of the mark that an attempt leaves when it begins."""
    return f"{part}.{attempt}.started"


def _run(work: Work) -> UnitResult:
    begun = time.monotonic()
    _check_target(work)
    if work.part in work.target.names():
        return UnitResult(read_facts(work.target, work.part)[0], mine=False)
    work.target.mark(started(work.part, work.attempt))
    failpoint("bulk.unit.started")
    operator = _operator(work)
    check_unchanged(work.storage, work.file)
    with work.target.scratch(f"{work.part}.{work.attempt}") as scratch:
        facts = _write(work, operator, scratch, begun)
        failpoint("bulk.part.before_sync")
        sync(scratch)
        failpoint("bulk.part.after_sync")
        _verify(scratch, facts)
        check_unchanged(work.storage, work.file)
        _check_target(work)
        if publish_part(work.target, scratch, work.part):
            return UnitResult(facts, mine=True)
    return UnitResult(read_facts(work.target, work.part)[0], mine=False)


def _check_target(work: Work) -> None:
    """Raise unless this machine sees the target, and it still belongs to this job."""
    try:
        ours = belongs(work.target, work.job)
    except FileNotFoundError:
        raise unseen(f"the target {work.target.url}") from None
    if not ours:
        raise TargetError(f"{work.target.url} now belongs to another job than {work.job}: this one writes nothing more")


def _operator(work: Work) -> RowOperator:
    operator = work.spec.load()
    mine = work.spec.identity(operator.facts)
    other = [f"{name} {work.same[name]} → {mine[name]}" for name in mine if mine[name] != work.same[name]]
    if other:
        raise trouble(
            f"has another {work.spec.model} than the job was planned with ({', '.join(other)}): give it the same files"
        )
    return operator


def _prepared(work: Work, operator: RowOperator) -> Iterator[Any]:
    for window in read_windows(work.storage, work.file, work.span):
        yield prepare(window, work.column, operator, work.killed, first_row=work.first_row)


def _write(work: Work, operator: RowOperator, scratch: Path, begun: float) -> PartFacts:
    """Read and prepare in one thread, compute in this one, write in a third."""
    with work.storage.open(work.file.path) as file:
        metadata, _ = read_footer(file, work.file.size, work.storage.url(work.file.path))
    schema = output_schema(metadata.schema.to_arrow_schema(), operator.fields, work.error_column)
    writer = PartWriter(scratch, schema)
    behind: Behind[Done] = Behind(writer.add)
    try:
        with ahead(_prepared(work, operator)) as windows:
            for ready in windows:
                behind.put(compute(ready, operator))
        behind.close()
        return writer.finish(
            job=work.job,
            part=work.part,
            source=work.storage.url(work.file.path),
            source_footer=work.file.footer,
            row_start=work.span.start,
            row_stop=work.span.stop,
            seconds=round(time.monotonic() - begun, 3),
            facts=dict(operator.facts),
            options=dict(work.spec.options),
            attempt=f"{work.attempt}.{uuid4().hex[:8]}",
            worker=whoami(),
        )
    finally:
        behind.stop()
        writer.abandon()


def _verify(scratch: Path, facts: PartFacts) -> None:
    """Read the synced file's footer back: what is published is what was meant."""
    with scratch.open("rb") as file:
        size = scratch.stat().st_size
        metadata, _ = read_footer(pa.PythonFile(file, "r"), size, str(scratch))
    if parse_facts(metadata, str(scratch)) != facts or facts.rows != facts.row_stop - facts.row_start:
        raise trouble(f"wrote {scratch}, which does not read back as it was written: is its disk sound?")


def _explain(error: OSError, work: Work) -> str:
    place = work.target.url
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"has no space for {work.part} of {place}: {error.strerror}. Free some, then run again"
    return f"could not do {work.part} of {place}: {error}"

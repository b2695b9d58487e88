"""How a bulk job is run, whatever it computes: what can be told to all of them, written once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from ...grid.suggest import did_you_mean
from .job import UNIT_SECONDS, BulkJob, BulkReport, Listener
from .operators import OperatorSpec
from .target import Target
from .watch import Patience

Source = str | Path | Sequence[str | Path]
"""Parquet files, folders, globs or fsspec URLs that workers see too."""
LONG_UNIT_SECONDS = 60.0
"""A part's size where one row may take seconds, and the end of each part leaves room in a running batch."""


class RunOptions(TypedDict, total=False):
    """What every job can be told. What is left out, or None, is as in `BulkJob`."""

    error_column: str
    """Name of the column that says why a row has no result. Without it: ``error``."""
    on_progress: Listener | None
    """Hears of every finished unit and of everything that is waited for."""
    dry_run: bool
    """Plan, and time the model on one worker, but write nothing: see `BulkReport.plan`."""
    max_error_ratio: float | None
    """Share of all rows that may have an error before the job stops. Without it bad rows never stop it."""
    unit_seconds: float | None
    """Work in one part at most, in seconds of one worker."""
    unit_rows: int | None
    """Rows in each part, instead of `unit_seconds`."""
    storage_options: dict[str, Any] | None
    """For fsspec: credentials and such of source and target. Never written anywhere."""
    patience: Patience | None
    """How long what is away is waited for."""


def run_job(
    client: Any,
    spec: OperatorSpec,
    source: Source,
    target: str | Path | Target,
    column: str,
    options: RunOptions,
    *,
    unit_seconds: float = UNIT_SECONDS,
    smallest_rows: int = 1,
) -> BulkReport:
    """Do what is not done yet. `unit_seconds` and `smallest_rows`: what this kind of job has where nobody says more.

    Raises BulkError, and TypeError for an option that there is not.
    """
    for name in options:
        if name not in RunOptions.__annotations__:
            raise TypeError(f"a bulk job has no option {name!r}.{did_you_mean(name, RunOptions.__annotations__)}")
    told: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    listener, dry_run = told.pop("on_progress", None), told.pop("dry_run", False)
    wanted = {"unit_seconds": unit_seconds, "smallest_rows": smallest_rows} | told
    job = BulkJob(spec=spec, source=source, target=target, column=column, **wanted)
    return job.run(client, listener, dry_run=dry_run)

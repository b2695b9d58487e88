"""A bulk job from beginning to end: plan, drive, finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ...grid.failpoints import failpoint
from . import source as sources
from .calibration import Calibration, warm
from .cutting import cut
from .drive import Driver, resumable
from .errors import InputError, TargetError
from .finding_out import find_out
from .manifest import FoundPart, finish, found_parts
from .operators import OperatorSpec
from .plan import MANIFEST, PLAN, SUCCESS, Plan, differences, job_id
from .progress import Progress
from .schema import check_no_drift, check_text_column, output_schema
from .source import Storage, Survey
from .target import Target, open_target
from .watch import Patience, Watch, ask_for

UNIT_SECONDS = 10.0
WARMED_AT_ONCE = 64
Listener = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """What a job did."""

    target: str
    rows: int
    """Rows in = rows out."""
    errors: int
    """Rows whose error column says why they have no result."""
    truncated: int
    """Rows of whose text the model took only the beginning."""
    parts: int
    reused_parts: int
    """Parts that an earlier run, or another driver, had made."""
    seconds: float
    """Of this run, planning included."""
    rows_per_second: float
    """Rows computed in this run over `seconds`."""
    plan: Plan
    dry_run: bool = False
    """True: nothing was computed or written; the counts are those of the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkJob:
    """What is wanted. `run` does it, `plan` only says what would be done."""

    spec: OperatorSpec
    source: str | Path | Sequence[str | Path]
    target: str | Path | Target
    column: str
    error_column: str = "error"
    unit_seconds: float = UNIT_SECONDS
    """Work in one part at most, in seconds of one worker."""
    unit_rows: int | None = None
    """Rows in each part, instead of `unit_seconds`."""
    smallest_rows: int = 1
    """That are computed together: parts have as many at least, if there are enough for all workers."""
    max_error_ratio: float | None = None
    """Share of all rows that may have an error before the job stops. None: bad rows never stop it."""
    storage_options: dict[str, Any] | None = None
    """For fsspec: credentials and such of source and target. Never written anywhere."""
    patience: Patience = field(default_factory=Patience)

    def run(self, client: Any, on_progress: Listener | None = None, *, dry_run: bool = False) -> BulkReport:
        """Do what is not done yet. Raises BulkError; the target is resumable at any moment."""
        begun, listener = time.monotonic(), on_progress or _ignore
        target, storage, surveys = self._look()
        plan = self._stored_plan(target, storage, surveys)
        new = plan is None
        if plan is None:
            with resumable(target):
                plan = self._make_plan(client, storage, surveys, listener)
        if dry_run:
            return _planned(plan, target, time.monotonic() - begun)
        if new:
            plan = self._store(target, plan, storage, surveys)
        with resumable(target):
            parts, driver = self._drive(client, plan, target, storage, surveys, listener)
        return _report(plan, parts, target, driver, time.monotonic() - begun)

    def _look(self) -> tuple[Target, Storage, list[Survey]]:
        """Read all footers and refuse what can't work, before any worker is asked."""
        if self.unit_rows is not None and self.unit_rows < 1:
            raise InputError(f"unit_rows must be at least 1, not {self.unit_rows}")
        if self.unit_seconds <= 0:
            raise InputError(f"unit_seconds must be more than 0, not {self.unit_seconds}")
        if self.max_error_ratio is not None and not 0 <= self.max_error_ratio <= 1:
            raise InputError(f"max_error_ratio must lie in 0..1, not {self.max_error_ratio}")
        storage, folders, paths = sources.resolve(self.source, self.storage_options)
        target = open_target(self.target, self.storage_options) if isinstance(self.target, str | Path) else self.target
        _check_apart(storage, folders, paths, target)
        surveys = sources.in_threads(lambda path: sources.survey(storage, path, self.column), paths)
        check_no_drift((storage.url(one.file.path), one.schema) for one in surveys)
        getattr(self.spec, "check_column", check_text_column)(surveys[0].schema, self.column)
        return target, storage, surveys

    def _wanted(self, storage: Storage, surveys: Sequence[Survey]) -> Plan:
        """The plan, as far as it is known without a worker."""
        return Plan(
            job="",
            files=tuple(one.file for one in surveys),
            urls=tuple(storage.url(one.file.path) for one in surveys),
            column=self.column,
            error_column=self.error_column,
            job_type=self.spec.job_type,
            model=self.spec.model,
            options=dict(self.spec.options),
            facts={},
            rows_per_second=0.0,
            workers=0,
            schema="",
            spans=(),
        )

    def _stored_plan(self, target: Target, storage: Storage, surveys: Sequence[Survey]) -> Plan | None:
        """The plan in the target, if it is this job's. Raises TargetError when the folder is somebody else's."""
        names = target.names()
        if PLAN not in names:
            strange = sorted(name for name in names if not name.startswith("."))
            if strange:
                raise TargetError(
                    f"{target.url} is not empty ({strange[0]}) and has no {PLAN}: name a new folder, or empty this one"
                )
            return None
        plan = Plan.from_json(target.read(PLAN), f"{target.url}/{PLAN}")
        other = differences(plan.identity(), self._wanted(storage, surveys).identity())
        if other:
            raise TargetError(
                f"{target.url} belongs to another job; it differs in {'; '.join(other)}. "
                "Choose another target, or ask for the same job to go on with it"
            )
        return plan

    def _make_plan(self, client: Any, storage: Storage, surveys: Sequence[Survey], listener: Listener) -> Plan:
        wanted = self._wanted(storage, surveys)
        watch = Watch(
            client, self.patience, self.spec.job_type, lambda notice: listener(_planning(wanted, watch, notice))
        )
        if words := getattr(self.spec, "first_words", ""):
            listener(_planning(wanted, watch, words))
        found = self._calibrate(client, storage, wanted, watch)
        option = getattr(self.spec, "column_option", "--embedding-column")
        schema = output_schema(surveys[0].schema, found.schema, self.error_column, option=option)
        watch.look(force=True)
        workers = max(1, len(watch.workers))
        spans = cut(
            [one.row_groups for one in surveys],
            rows_per_second=found.rows_per_second,
            workers=workers,
            unit_seconds=self.unit_seconds,
            unit_rows=self.unit_rows,
            smallest_rows=self.smallest_rows,
        )
        return replace(
            wanted,
            job=job_id(uuid4().bytes),
            facts=found.facts,
            rows_per_second=round(found.rows_per_second, 3),
            workers=workers,
            schema=schema.remove_metadata().to_string(),
            spans=tuple(spans),
        )

    def _calibrate(self, client: Any, storage: Storage, wanted: Plan, watch: Watch) -> Calibration:
        """Ask a worker; the others load the model meanwhile. A row of the sample may kill it: then without a sample."""
        watch.look(force=True)
        with ask_for(self.spec):
            others = [
                client.submit(warm, self.spec, pure=False) for _ in range(min(len(watch.workers), WARMED_AT_ONCE) - 1)
            ]
        try:
            return find_out(client, self.spec, watch, storage, wanted.files, self.column)
        finally:
            for future in others:
                future.cancel()

    def _store(self, target: Target, plan: Plan, storage: Storage, surveys: Sequence[Survey]) -> Plan:
        """Make the plan the target's; if another driver was first, its plan counts."""
        failpoint("bulk.plan.before")
        target.create(PLAN, plan.to_json())
        failpoint("bulk.plan.after")
        stored = self._stored_plan(target, storage, surveys)
        assert stored is not None
        return stored

    def _drive(
        self,
        client: Any,
        plan: Plan,
        target: Target,
        storage: Storage,
        surveys: Sequence[Survey],
        listener: Listener,
    ) -> tuple[dict[str, FoundPart], Driver]:
        """Make the missing parts and finish the job. Returns all parts, and the driver for its counts."""
        parts = found_parts(target, plan)
        driver = Driver(
            client,
            plan,
            self.spec.pinned(plan.facts),
            storage=storage,
            files=[one.file for one in surveys],
            target=target,
            patience=self.patience,
            max_errors=None if self.max_error_ratio is None else self.max_error_ratio * plan.rows,
            notify=listener,
        )
        for unit in plan.units:
            if unit.part in parts:
                driver.finished_before(unit, parts[unit.part].facts.errors)
        missing = [unit for unit in plan.units if unit.part not in parts]
        if missing:
            _check_unfinished(target, missing[0].part)
            if words := getattr(self.spec, "warning", _silent)(plan):
                driver.say(words)
            driver.run(missing)
            parts = found_parts(target, plan)
        finish(target, plan, parts)
        return parts, driver


def _check_apart(storage: Storage, folders: Sequence[str], paths: Sequence[str], target: Target) -> None:
    """Raise InputError when a source lies in the target or the target in a source folder: parts would become input."""
    root = target.url.rstrip("/") + "/"
    inside = next((url for path in paths if (url := storage.url(path)).startswith(root)), None)
    if inside is not None:
        raise InputError(f"the source {inside} lies inside of the target {target.url}: choose another target")
    around = next((url for one in folders if root.startswith((url := storage.url(one)).rstrip("/") + "/")), None)
    if around is not None:
        raise InputError(f"the target {target.url} lies inside of the source {around}: choose another target")


def _check_unfinished(target: Target, missing: str) -> None:
    """Raise TargetError when the job was finished once and a part has gone since."""
    if MANIFEST in target.names():
        raise TargetError(
            f"{target.url} was complete, and {missing} is gone since. "
            f"To make it again, remove {MANIFEST} and {SUCCESS} there and run the same job"
        )


def _ignore(progress: Progress) -> None:
    pass


def _silent(plan: Plan) -> str:
    return ""


def _planning(plan: Plan, watch: Watch, notice: str) -> Progress:
    return Progress(
        rows=0,
        rows_total=plan.rows,
        errors=0,
        units=0,
        units_total=0,
        rows_per_second=0.0,
        eta_seconds=None,
        workers=len(watch.workers),
        notice=notice,
    )


def _planned(plan: Plan, target: Target, seconds: float) -> BulkReport:
    return BulkReport(
        target=target.url,
        rows=plan.rows,
        errors=0,
        truncated=0,
        parts=len(plan.spans),
        reused_parts=len(target.names() & {unit.part for unit in plan.units}),
        seconds=seconds,
        rows_per_second=0.0,
        plan=plan,
        dry_run=True,
    )


def _report(plan: Plan, parts: dict[str, FoundPart], target: Target, driver: Driver, seconds: float) -> BulkReport:
    facts = [part.facts for part in parts.values()]
    return BulkReport(
        target=target.url,
        rows=sum(one.rows for one in facts),
        errors=sum(one.errors for one in facts),
        truncated=sum(one.truncated for one in facts),
        parts=len(parts),
        reused_parts=len(parts) - driver.parts_made,
        seconds=seconds,
        rows_per_second=driver.rows_made / max(seconds, 1e-9),
        plan=plan,
    )

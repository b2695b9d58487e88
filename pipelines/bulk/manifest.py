"""The end of a job: every part is there and counts right; then the manifest, then `_SUCCESS`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...grid.failpoints import failpoint
from .errors import TargetError
from .part import PartFacts, read_facts
from .plan import MANIFEST, SUCCESS, Plan
from .source import in_threads
from .target import Target


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A part in the target, checked against the plan."""

    facts: PartFacts
    size: int
    """Bytes."""
    footer: str
    """SHA-256 of its footer; the footer holds the SHA-256 of everything before it."""


def found_parts(target: Target, plan: Plan) -> dict[str, FoundPart]:
    """The plan's parts that exist, by name. Raises TargetError when one is not what the plan says."""
    there = target.names()
    units = {unit.part: unit for unit in plan.units}
    strange = sorted(name for name in there if name.startswith("part-") and name not in units)
    if strange:
        raise TargetError(f"{target.url} holds {strange[0]}, which is no part of this job: move it away")

    def look(name: str) -> FoundPart:
        facts, size, footer = read_facts(target, name)
        span = units[name].span
        if (facts.job, facts.row_start, facts.row_stop) != (plan.job, span.start, span.stop):
            raise TargetError(f"{target.url}/{name} belongs to another job ({facts.job}): remove it and run again")
        return FoundPart(facts, size, footer)

    names = sorted(there & set(units))
    return dict(zip(names, in_threads(look, names), strict=True))


def finish(target: Target, plan: Plan, parts: Mapping[str, FoundPart]) -> None:
    """Write manifest and `_SUCCESS`. Raises TargetError when rows out are not rows in."""
    names = [unit.part for unit in plan.units]
    missing = [name for name in names if name not in parts]
    rows = sum(part.facts.rows for part in parts.values())
    if missing or rows != plan.rows:
        raise TargetError(f"{target.url}: {len(missing)} parts are missing, {rows} of {plan.rows} rows are there")
    failpoint("bulk.manifest.before")
    document = _document(plan, [parts[name] for name in names])
    if not target.create(MANIFEST, document) and target.read(MANIFEST) != document:
        raise TargetError(
            f"{target.url}/{MANIFEST} does not describe these parts: was one replaced? Remove it, run again"
        )
    failpoint("bulk.manifest.after")
    target.create(SUCCESS, b"")
    failpoint("bulk.success.after")
    target.clear()
    failpoint("bulk.cleared")


def _document(plan: Plan, parts: Sequence[FoundPart]) -> bytes:
    """The manifest: a pure function of plan and parts, so that two drivers that finish together write the same."""
    facts: dict[str, Any] = {
        "job": plan.job,
        "rows_in": plan.rows,
        "rows_out": sum(part.facts.rows for part in parts),
        "rows_with_errors": sum(part.facts.errors for part in parts),
        "rows_truncated": sum(part.facts.truncated for part in parts),
        "column": plan.column,
        "model": dict(plan.facts),
        "options": dict(plan.options),
        "sources": [
            {"url": url, "bytes": file.size, "rows": file.rows, "footer_sha256": file.footer}
            for url, file in zip(plan.urls, plan.files, strict=True)
        ],
        "parts": [
            {
                "name": part.facts.part,
                "rows": part.facts.rows,
                "errors": part.facts.errors,
                "bytes": part.size,
                "footer_sha256": part.footer,
                "data_sha256": part.facts.data_sha256,
                "source": part.facts.source,
                "row_start": part.facts.row_start,
                "row_stop": part.facts.row_stop,
            }
            for part in parts
        ],
    }
    return json.dumps(facts, indent=1).encode()

"""The plan of a bulk job: written once into the target, and what every restart goes by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .cutting import Span
from .errors import TargetError
from .source import SourceFile
from .target import Target

PLAN = "_plan.json"
MANIFEST = "_manifest.json"
SUCCESS = "_SUCCESS"
VERSION = 1
"""Of the layout of the target folder."""
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of work: a run of rows that becomes one part."""

    index: int
    """Its place in the output, from 0."""
    part: str
    """Final name of its file, e.g. ``part-00012.parquet``; sorted by name, parts are in the order of the input."""
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done, with which model, cut in which pieces."""

    job: str
    """16 hex digits: this job, in this target, cut like this."""
    files: tuple[SourceFile, ...]
    urls: tuple[str, ...]
    """Of the files, with protocol."""
    column: str
    """Text column."""
    error_column: str
    """Where a row without a result says why."""
    job_type: str
    model: str
    options: Mapping[str, Any]
    """Everything else that decides the content of the output."""
    facts: Mapping[str, Any]
    """What the first worker's operator said of itself."""
    rows_per_second: float
    """Measured on one worker with rows of this job."""
    workers: int
    """For how many workers it was cut."""
    schema: str
    """The output's schema, for people."""
    spans: tuple[Span, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def units(self) -> list[Unit]:
        return [
            Unit(index=index, part=name, span=span)
            for index, (name, span) in enumerate(zip(part_names(len(self.spans)), self.spans, strict=True))
        ]

    @property
    def seconds(self) -> float:
        """Expected duration with the workers that it was made for, their start not counted."""
        total = sum(span.seconds for span in self.spans)
        return max(total / max(1, self.workers), max(span.seconds for span in self.spans))

    def identity(self) -> dict[str, Any]:
        """What two plans must share to be the same job: not how it is cut, nor the stamps of its files."""
        return {
            "source files": [[url, file.size, file.footer] for url, file in zip(self.urls, self.files, strict=True)],
            "column": self.column,
            "error column": self.error_column,
            "job type": self.job_type,
            "model": self.model,
            **{name.replace("_", " "): value for name, value in self.options.items()},
        }

    def to_json(self) -> bytes:
        document = asdict(self)
        document["spans"] = [[span.file, span.start, span.stop, round(span.seconds, 4)] for span in self.spans]
        return _head(self.job) + json.dumps(document).encode()[1:]

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Plan:
        """The inverse of `to_json`. Raises TargetError when `data` is no plan of this version; `where` names it."""
        try:
            document = json.loads(data)
            version = document.pop("version")
            if version != VERSION:
                raise TargetError(f"{where} is a plan of layout {version}; this version writes layout {VERSION}")
            document["files"] = tuple(SourceFile(**one) for one in document["files"])
            document["spans"] = tuple(Span(*one) for one in document["spans"])
            document["urls"] = tuple(document["urls"])
            return cls(**document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TargetError(f"{where} is no plan that can be read ({error}): choose another target folder") from error


def _head(job: str) -> bytes:
    """How the plan of `job` begins: enough to tell it from another without reading all of it."""
    return f'{{"version": {VERSION}, "job": "{job}", '.encode()


def belongs(target: Target, job: str) -> bool:
    """Whether the target still is this job's. Raises FileNotFoundError when it has no plan."""
    head = _head(job)
    return target.read(PLAN, len(head)) == head


def part_names(count: int) -> Iterator[str]:
    """Final names of `count` parts; sorting them as text keeps their order."""
    width = max(5, len(str(max(0, count - 1))))
    return (f"part-{index:0{width}}.parquet" for index in range(count))


def job_id(seed: bytes) -> str:
    return hashlib.sha256(seed).hexdigest()[:16]


def differences(planned: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """How the job that a target belongs to differs from the one that is asked for; empty: they are the same."""
    found = []
    for name in sorted({*planned, *wanted}):
        old, new = planned.get(name), wanted.get(name)
        if old != new:
            found.append(_files_differ(old or [], new or []) if name == "source files" else f"{name}: {old} → {new}")
    return found


def _files_differ(old: Sequence[Any], new: Sequence[Any]) -> str:
    before, after = {one[0]: one[1:] for one in old}, {one[0]: one[1:] for one in new}
    changes = [f"{url} is gone" for url in before if url not in after]
    changes += [f"{url} is new" for url in after if url not in before]
    for url in before:
        if url in after and list(before[url]) != list(after[url]):
            changes.append(f"{url} has other content ({before[url][0]} → {after[url][0]} bytes)")
    more = f", and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return "source files: " + (", ".join(changes[:_SHOWN]) + more if changes else "in another order")

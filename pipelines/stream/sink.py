"""Where a stream's results go: what a sink promises, and the commits that it keeps.

Data and checkpoint are one thing: a *commit* is some results together with which records they are. A commit has a
number, and follows the one before it; of two processes that write the same number one gets `Overtaken`. So a restart
reads from the sink what is done, and a process that was believed dead can add nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from .done import Done, Piece
from .errors import StreamError

RECORD = "record"
"""Column with each record's name, ``partition:number``."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit says of itself: plain JSON."""

    number: int
    """From 1."""
    token: str
    """Drawn by the process that wrote it: did a commit whose answer got lost come to be, or was it another's?"""
    added: Sequence[Piece]
    forgotten: Sequence[str] = ()
    """Partitions of which nothing will come again."""

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Commit:
        """The inverse of `document`."""
        return cls(
            number=int(document["number"]),
            token=str(document["token"]),
            added=tuple(Piece(str(name), int(start), int(stop)) for name, start, stop in document["added"]),
            forgotten=tuple(document["forgotten"]),
        )

    def apply(self, done: Done) -> None:
        """`done`, as it is after this commit."""
        for piece in self.added:
            done.add(piece)
        for partition in self.forgotten:
            done.forget(partition)


@dataclass(frozen=True, slots=True)
class State:
    """What a sink knows of a stream."""

    number: int = 0
    """Of the last commit. 0: there is none."""
    done: Done = field(default_factory=Done)
    records: int = 0
    """In the sink, over all commits."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of the operator that made the first results."""


class Sink(Protocol):
    """Keeps results. Called from one thread."""

    def open(self, stream: Mapping[str, Any], facts: Mapping[str, Any]) -> State:
        """Begin, or go on. `stream`: source, type, model and options, as JSON; `facts`: of the operator.

        Raises StreamError when it holds another stream.
        """
        ...

    def commit(self, commit: Commit, rows: Any, done: Done) -> None:
        """Keep `rows` (a `pyarrow.Table`, may be empty) and the commit, both or neither. It is on disk afterwards.

        `done`: as it is after this commit. Raises Overtaken; ConnectionError or OSError when it can't be said whether
        it was kept: then the same commit is tried again.
        """
        ...

    def close(self) -> None: ...


def check_same(mine: Mapping[str, Any], kept: Mapping[str, Any], where: str) -> None:
    """Raise StreamError when what the sink holds comes from another stream than this one."""
    other = [f"{name} was {kept.get(name)!r}, is {value!r}" for name, value in mine.items() if kept.get(name) != value]
    if other:
        raise StreamError(
            f"{where} holds another stream ({'; '.join(other)}): name another sink, or the same source and options"
        )


def shown(schema: Any) -> str:
    """A schema for people."""
    return ", ".join(f"{field.name} {field.type}" for field in schema)

"""Job types: what a type must say of itself, and the register of those that are installed.

A type is one module with a `JOB_TYPE` and one line in its package's ``pyproject.toml``; the built-in types use the same
door as a stranger's package::

    [project.entry-points."idlegrid.job_types"]
    embedding = "idlegrid.pipelines.embedding:JOB_TYPE"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from .jobs import Ask
from .suggest import did_you_mean
from .task_limits import TaskLimits

GROUP = "idlegrid.job_types"
"""The entry point group."""


class Cancelled(Exception):
    """The attempt was told to stop, and did."""


def _never() -> bool:
    return False


def _ignored(_: Any) -> None:
    pass


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a running attempt can hear and say. Each may be called from any thread, and none of them waits.

    The default belongs to nobody's job: it is never cancelled, and what it is told is ignored.
    """

    cancelled: Callable[[], bool] = _never
    """Whether to stop: the job was cancelled, its time is up, or another worker has it now. Once true, always true."""
    progress: Callable[[Mapping[str, Any]], None] = _ignored
    """How far the work is, as a small JSON object; only the latest is kept."""
    tokens: Callable[[str], None] = _ignored
    """The next piece of a text that is being generated."""
    salt: str = ""
    """Whose job it is, in a name that says nothing: what a type keeps of one job for the next (cached prefixes) is only
    for jobs with the same salt."""

    def check(self) -> None:
        """Raise Cancelled if the work is to stop: for loops that can stop between two steps."""
        if self.cancelled():
            raise Cancelled


ALONE = RunContext()


@runtime_checkable
class JobType(Protocol):
    """What dispatch, HTTP and bulk need of a job type. Importing one is cheap: no torch, no Dask before `run`."""

    @property
    def name(self) -> str:
        """The type's name in jobs, asks and donors, e.g. ``embedding``; the same as its entry point's."""

    @property
    def Params(self) -> type[BaseModel]:  # noqa: N802 - it is a class
        """Validates a job's `params`; refuses what it doesn't know."""

    @property
    def Result(self) -> type[BaseModel]:  # noqa: N802
        """The shape of a job's `result`."""

    def ask(self, params: Any) -> Ask:
        """What placement must know of a job with these `Params`; the job's own region and exclusions come on top."""

    def run(self, params: Any, context: RunContext = ALONE) -> BaseModel:
        """Do the work on the donor that was chosen, in this process, and give its `Result`. May block.

        It looks at `context.cancelled` often, and raises Cancelled when it stops early. ValueError: nobody can do these
        `params`. Anything else that it raises is worth another try elsewhere.
        """


@runtime_checkable
class ChecksResults(Protocol):
    """A job type that can tell more of a result than its shape: donors are strangers, and what they send is a claim."""

    def check(self, params: Any, result: Any) -> None:
        """Raise ValueError when this `Result` can't be the answer to these `Params`. Cheap: it computes nothing."""


@runtime_checkable
class Isolated(Protocol):
    """A job type whose tasks run in a process of their own each, within limits: for code that may misbehave.

    Such a process holds no model from one task to the next. It finds the type by its entry point.
    """

    @property
    def isolated(self) -> bool:
        """Whether they do."""

    @property
    def task_limits(self) -> TaskLimits:
        """The limits of each."""


@runtime_checkable
class NeedsPackages(Protocol):
    """A job type whose `run` imports more than the extra `worker` brings: a machine without that does not offer it."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Top-level names that it imports."""


class UnknownJobTypeError(LookupError):
    """No installed package offers this job type, or the one that does is broken. The message says which."""


@dataclass(frozen=True, slots=True)
class Register:
    """The job types that could be loaded, and what is wrong with the others."""

    types: Mapping[str, JobType]
    broken: Mapping[str, str] = field(default_factory=dict)
    """Name → what happened to it, in one sentence."""

    def __getitem__(self, name: str) -> JobType:
        """The job type; raises UnknownJobTypeError."""
        if name in self.types:
            return self.types[name]
        if name in self.broken:
            raise UnknownJobTypeError(f"job type {name!r} is installed but can't be used: {self.broken[name]}")
        known = ", ".join(sorted(self.types)) or "none"
        raise UnknownJobTypeError(f"unknown job type {name!r}; installed: {known}.{did_you_mean(name, self.types)}")


def load(points: Iterable[EntryPoint]) -> Register:
    """Load the job types behind entry points. One that is broken, or offered twice, is noted and harms no other."""
    offers: dict[str, dict[str, EntryPoint]] = defaultdict(dict)
    for point in points:
        offers[point.name][point.value] = point
    types: dict[str, JobType] = {}
    broken: dict[str, str] = {}
    for name, by_value in sorted(offers.items()):
        if len(by_value) > 1:
            givers = " and ".join(sorted(_giver(point) for point in by_value.values()))
            broken[name] = f"{givers} both offer it; uninstall one of them"
            continue
        (point,) = by_value.values()
        try:
            types[name] = _load(point)
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            broken[name] = f"{_giver(point)}: {type(error).__name__}: {error}"
    return Register(MappingProxyType(types), MappingProxyType(broken))


def _load(point: EntryPoint) -> JobType:
    found = point.load()
    if not isinstance(found, JobType):
        missing = [word for word in ("name", "Params", "Result", "ask", "run") if not hasattr(found, word)]
        raise TypeError(f"it is a {type(found).__name__} without {', '.join(missing)}")
    for word in ("Params", "Result"):
        if not (isinstance(getattr(found, word), type) and issubclass(getattr(found, word), BaseModel)):
            raise TypeError(f"its {word} is {getattr(found, word)!r}; it must be a pydantic model class")
    if found.name != point.name:
        raise ValueError(f"it calls itself {found.name!r}; entry point and type must have the same name")
    return found


def _giver(point: EntryPoint) -> str:
    """Which package, and where in it."""
    return f"{point.dist.name} ({point.value})" if point.dist is not None else point.value


@cache
def register() -> Register:
    """The job types installed in this environment, loaded at the first call."""
    return load(entry_points(group=GROUP))


def job_types() -> Mapping[str, JobType]:
    """Name → job type, for all that can be used; `register().broken` has the others."""
    return register().types


def job_type(name: str) -> JobType:
    """The job type of that name. Raises UnknownJobTypeError with the nearest name, or with what broke it."""
    return register()[name]


def missing_packages(found: JobType) -> tuple[str, ...]:
    """What a job type imports when it runs and this environment lacks. Nothing is imported to find out."""
    needed = found.packages if isinstance(found, NeedsPackages) else ()
    return tuple(name for name in needed if find_spec(name) is None)


def runnable_types() -> frozenset[str]:
    """Names of the job types that can run in this environment: what a machine offers unless its owner says less."""
    return frozenset(name for name, found in job_types().items() if not missing_packages(found))

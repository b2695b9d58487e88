"""What a kind of bulk job adds to the machinery: texts in, result columns out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Results:
    """What an operator made of n texts."""

    columns: Sequence[Any]
    """One `pyarrow.Array` of length n for each of the operator's fields."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Index of a text → why it has no result."""
    truncated: Collection[int] = ()
    """Indices of texts of which only the beginning was used, because the model takes no more."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text, and which row of the whole input it is: what an operator that works `by_row` gets."""

    number: int
    """From 0, over all files."""
    text: str


class RowOperator(Protocol):
    """The work on texts, inside one worker process.

    Equal texts have equal results and are computed once, unless the operator has an attribute ``by_row`` that is true:
    then `prepare` gets a `Row` for each row. An operator that has ``rows_per_second(texts) -> float`` says itself how
    fast it is; else it is timed. One whose column holds files gets bytes, or paths and URLs as text, and has an
    attribute ``harmless``: a value that it can always do something with.

    `prepare` runs in a thread of its own, one window of rows ahead of `compute`. Both must give the same answer for the
    same texts: a unit that is done twice must come out equal. An exception makes the machinery try smaller halves until
    it knows which texts are at fault; a text that can be judged alone is better reported in `Results.errors`.
    """

    @property
    def fields(self) -> Sequence[Any]:
        """The `pyarrow.Field`s of the result columns, all nullable."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What makes the results, as JSON: goes into each part's footer."""
        ...

    def prepare(self, texts: Sequence[Any]) -> Any:
        """Everything that does not need the device, e.g. tokenising."""
        ...

    def compute(self, prepared: Any) -> Results:
        """The results of what `prepare` returned, in the order of its texts."""
        ...


class OperatorSpec(Protocol):
    """How to make an operator on a worker: small and picklable. Two equal specs are the same job."""

    @property
    def job_type(self) -> str:
        """Name of the job type, e.g. ``embedding``: decides which donors may take the work."""
        ...

    @property
    def model(self) -> str:
        """Model id, folder or alias, as placement and provenance name it."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """Everything else that the results depend on, as JSON: part of the job's identity."""
        ...

    def pinned(self, facts: Mapping[str, Any]) -> OperatorSpec:
        """The spec with every ``auto`` replaced by what the first worker chose, so that all workers compute alike."""
        ...

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of an operator's facts that must be equal on all workers, e.g. the revision of the weights."""
        ...

    # A spec may also have `check_column(schema, column)`, which raises InputError for a column that it can't read; else
    # the column must hold text. Lists and structs come to the operator as JSON. `column_option` is the option of the
    # command line by which its result columns get other names.

    def load(self) -> RowOperator:
        """The operator, ready to compute; called in the task's own thread. Loads the model if it is not resident."""
        ...


def as_json(facts: Any) -> Mapping[str, Any]:
    """What a model says of itself (a dataclass), as an operator's facts."""
    return {name: _plain(value) for name, value in asdict(facts).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    return list(value) if isinstance(value, tuple) else value

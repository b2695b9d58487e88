"""Bulk chat: an answer to every row of a Parquet dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...actors.llm.request import Sampling
from ...grid import catalogue
from ...grid.tenants import of_this_user
from .conversations import check_messages_column
from .errors import InputError
from .job import BulkJob, BulkReport, Listener
from .schema import check_text_column
from .target import Target
from .watch import Patience

if TYPE_CHECKING:
    from .chat_operator import ChatOperator

UNIT_SECONDS = 60.0
"""A part's size: longer than for embeddings, since the end of each unit leaves room in the running batch."""
_SAME_ON_ALL_WORKERS = ("revision", "dtype", "backend")


@dataclass(frozen=True, slots=True)
class ChatSpec:
    """Which answers are wanted (an `OperatorSpec`)."""

    model: str
    """Folder, catalogue name or Hugging Face id."""
    messages: bool = False
    """The column holds whole conversations; else one question a row."""
    system: str | None = None
    """A system message before each row's own."""
    max_tokens: int = 512
    temperature: float = 0.7
    """0: always the likeliest token."""
    top_p: float = 0.9
    top_k: int = 0
    """Only so many of the likeliest tokens. 0: all."""
    stop: tuple[str, ...] = ()
    seed: int = 0
    """With a row's number it makes the row's own seed: the same job gives the same answers again."""
    json_schema: str | None = None
    """The answers must be JSON of this schema (JSON text)."""
    dtype: str = "auto"
    """Of the weights. All workers use what the first one chose."""
    engine: str = "torch"
    """See `actors.serving.engines.EngineSpec`."""
    prefix: str = ""
    """Before the names of the result columns."""
    cache_salt: str = field(default_factory=of_this_user)
    """Cached prefixes are only for requests with the same salt. It changes no answer, so it is no part of the job."""
    column_option = "--prefix"

    @property
    def job_type(self) -> str:
        return "llm"

    @property
    def options(self) -> Mapping[str, Any]:
        names = ("messages", "system", "max_tokens", "temperature", "top_p", "top_k", "seed", "json_schema")
        rest = {"stop": list(self.stop), "dtype": self.dtype, "engine": self.engine, "column_prefix": self.prefix}
        return {name: getattr(self, name) for name in names} | rest

    def sampling(self, seed: int) -> Sampling:
        """How the tokens of an answer are chosen."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop,
            seed=seed,
            json_schema=self.json_schema,
        )

    def pinned(self, facts: Mapping[str, Any]) -> ChatSpec:
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: facts[name] for name in _SAME_ON_ALL_WORKERS}

    def check_column(self, schema: Any, column: str) -> None:
        """Raise InputError for a column that holds neither questions nor conversations, as asked for."""
        (check_messages_column if self.messages else check_text_column)(schema, column)

    def load(self) -> ChatOperator:
        from ...actors.llm.resident import llm_engine  # brings torch, which only a worker has
        from .chat_operator import ChatOperator

        return ChatOperator(self, llm_engine(self.model, engine=self.engine, dtype=self.dtype))


def chat_parquet(
    client: Any,
    source: str | Path | Sequence[str | Path],
    target: str | Path | Target,
    *,
    prompt_column: str | None = None,
    messages_column: str | None = None,
    system: str | None = None,
    model: str | None = None,
    max_tokens: int = 512,
    temperature: float = 0.7,
    top_p: float = 0.9,
    top_k: int = 0,
    stop: Sequence[str] = (),
    seed: int = 0,
    json_schema: str | None = None,
    dtype: str = "auto",
    engine: str = "torch",
    prefix: str = "",
    cache_salt: str | None = None,
    error_column: str = "error",
    on_progress: Listener | None = None,
    dry_run: bool = False,
    max_error_ratio: float | None = None,
    unit_seconds: float = UNIT_SECONDS,
    unit_rows: int | None = None,
    storage_options: dict[str, Any] | None = None,
    patience: Patience | None = None,
) -> BulkReport:
    """Answer every row of Parquet files; write the same rows plus the answers and an error column into `target`.

    A row is one question (`prompt_column`) or a whole conversation (`messages_column`: JSON text, or a list of structs
    with `role` and `content`). The result columns are ``response``, ``finish_reason``, ``prompt_tokens``,
    ``completion_tokens`` and ``cached_tokens`` (of the prompt, found in the prefix cache), each behind `prefix`. Rows
    that begin alike are computed near each other, so that what they share is computed once; `cache_salt` says with whom
    else they share (None: with what this user computes from Python and the command line). Each row is sampled with a
    seed of its own, which follows from `seed` and its number in the input.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    column = prompt_column if prompt_column is not None else messages_column
    if column is None or (prompt_column is not None and messages_column is not None):
        raise InputError("name the column to answer: either prompt_column or messages_column")
    job = BulkJob(
        spec=ChatSpec(
            model=catalogue.canonical(model, "llm"),
            messages=messages_column is not None,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=tuple(stop),
            seed=seed,
            json_schema=json_schema,
            dtype=dtype,
            engine=engine,
            prefix=prefix,
            cache_salt=of_this_user() if cache_salt is None else cache_salt,
        ),
        source=source,
        target=target,
        column=column,
        error_column=error_column,
        unit_seconds=unit_seconds,
        unit_rows=unit_rows,
        max_error_ratio=max_error_ratio,
        storage_options=storage_options,
        patience=patience or Patience(),
    )
    return job.run(client, on_progress, dry_run=dry_run)

"""Bulk chat: an answer to every row of a Parquet dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...actors.llm.request import Sampling
from ...grid import catalogue
from ...grid.tenants import of_this_user
from .conversations import check_messages_column
from .errors import InputError
from .job import BulkReport
from .run import LONG_UNIT_SECONDS, RunOptions, Source, run_job
from .schema import check_text_column
from .specs import PrefixedSpec
from .target import Target

if TYPE_CHECKING:
    from .chat_operator import ChatOperator


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSpec(PrefixedSpec):
    """Which answers are wanted (an `OperatorSpec`)."""

    same_on_all_workers = ("revision", "dtype", "backend")
    wanted = (
        *("messages", "system", "max_tokens", "temperature", "top_p", "top_k", "seed", "json_schema"),
        *("stop", "dtype", "engine"),
    )

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
    engine: str = "torch"
    """See `actors.serving.engines.EngineSpec`."""
    cache_salt: str = field(default_factory=of_this_user)
    """Cached prefixes are only for requests with the same salt. It changes no answer, so it is no part of the job."""

    @property
    def job_type(self) -> str:
        return "llm"

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

    def check_column(self, schema: Any, column: str) -> None:
        """Raise InputError for a column that holds neither questions nor conversations, as asked for."""
        (check_messages_column if self.messages else check_text_column)(schema, column)

    def load(self) -> ChatOperator:
        from ...actors.llm.resident import llm_engine  # brings torch, which only a worker has
        from .chat_operator import ChatOperator

        return ChatOperator(self, llm_engine(self.model, engine=self.engine, dtype=self.dtype))


def chat_parquet(
    client: Any,
    source: Source,
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
    **run: Unpack[RunOptions],
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
    spec = ChatSpec(
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
    )
    return run_job(client, spec, source, target, column, run, unit_seconds=LONG_UNIT_SECONDS)

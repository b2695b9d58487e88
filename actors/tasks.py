"""What a Dask task calls on a worker: small functions that a client names and a donor runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np
from dask.utils import funcname
from distributed.protocol.pickle import dumps, loads
from numpy.typing import NDArray

from .resident import embedding_model

P = ParamSpec("P")
R = TypeVar("R")


class Embedded(NamedTuple):
    """Vectors and what they cost."""

    vectors: NDArray[np.float32]
    """(n, d), in input order."""
    tokens: list[int]
    """Tokens of each input, special ones included, after truncation."""


class BadTokens(ValueError):
    """An input can't be embedded as it is: `index` says which one, `what` what is wrong with it."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(index, what)
        self.index, self.what = index, what

    def __str__(self) -> str:
        return f"input {self.index} {self.what}"


class Located(Generic[P, R]):
    """A function for a worker, whose exceptions say on which worker, in which region, they were raised.

    It travels pickled twice: what a worker can't import (a module of the client's own) then fails that task alone. Dask
    unpickles a task while it reads from the scheduler, so there the same mistake ends the worker, and the next one.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self.__name__ = funcname(function)
        self._pickled = dumps(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            function: Callable[P, R] = loads(self._pickled)
            return function(*args, **kwargs)
        except Exception as error:
            error.add_note(_place())
            raise


def located(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, to be submitted to a worker; see `Located`."""
    return Located(function)


def _place() -> str:
    from distributed import get_worker

    worker = get_worker()
    plugin = worker.plugins.get("idlegrid-donor")
    region = f" in {plugin.donor.region}" if plugin is not None else ""
    return f"raised on worker {worker.name}{region} ({worker.address})"


def embed_inputs(
    model: str,
    inputs: Sequence[str | Sequence[int]],
    *,
    normalize: bool = True,
    dimensions: int | None = None,
    dtype: str = "auto",
    truncate: bool = True,
) -> Embedded:
    """Embed texts, or inputs that are tokenised already, with this worker's resident copy of `model`.

    Texts that are longer than the model reads are cut, or with `truncate=False` refused like token ids always are.
    Raises BadTokens for an input that is too long or has an id outside of the model's vocabulary, ValueError for
    `dimensions` that the model does not have.
    """
    resident = embedding_model(model, dtype=dtype)
    texts = [index for index, one in enumerate(inputs) if isinstance(one, str)]
    tokenized = resident.tokenize([str(inputs[index]) for index in texts], truncate=truncate)
    ids: list[Sequence[int]] = [() if isinstance(one, str) else one for one in inputs]
    for index, tokens in zip(texts, tokenized, strict=True):
        ids[index] = tokens
    for index, one in enumerate(ids):
        _check_tokens(index, one, resident.facts.vocab_size, resident.facts.max_tokens)
    vectors = resident.embed_tokens(ids, normalize=normalize, dimensions=dimensions)
    return Embedded(vectors, [len(one) for one in ids])


def _check_tokens(index: int, tokens: Sequence[int], vocab_size: int, max_tokens: int) -> None:
    if not 1 <= len(tokens) <= max_tokens:
        raise BadTokens(index, f"has {len(tokens)} tokens, the model takes 1 to {max_tokens}")
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        bad = next(token for token in tokens if not 0 <= token < vocab_size)
        raise BadTokens(index, f"has the token id {bad}, which the model does not know (0 to {vocab_size - 1})")


def model_facts(model: str, *, dtype: str = "auto", backend: str = "auto") -> dict[str, Any]:
    """What this worker's copy of `model` is (`ModelFacts` as a dict); loads it if it is not resident."""
    return embedding_model(model, dtype=dtype, backend=backend).facts.as_dict()

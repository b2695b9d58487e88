"""What a Dask task for a language model calls on a worker."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .completion import Completion
from .request import Request, Sampling
from .resident import encoded, llm_engine
from .seeds import derived

Conversation = str | Sequence[Mapping[str, str]]
"""A question, or messages with `role` and `content`."""


def answer_all(
    model: str,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    *,
    raw: bool = False,
    first: int = 0,
    salt: str = "",
) -> list[Completion]:
    """The answers of this worker's resident engine, all generated at the same time.

    `raw`: each is a text to go on from, not a question. Conversation i is sampled with the seed of number `first` + i.
    `salt`: whose they are, see `Request`. Raises RequestRefused, GenerationFailed, EngineClosed.
    """
    resident = llm_engine(model)
    futures = []
    for number, one in enumerate(conversations, first):
        if raw:
            prompt = resident.engine.encode(str(one))
        else:
            prompt = encoded(resident.engine, *((None, one) if isinstance(one, str) else (one, None)))
        own = replace(sampling, seed=derived(sampling.seed, number) if number else sampling.seed)
        futures.append(resident.complete(Request(id=uuid.uuid4().hex, prompt=prompt, sampling=own, salt=salt)))
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


def answer(
    model: str, conversation: Conversation, sampling: Sampling, *, raw: bool = False, salt: str = ""
) -> Completion:
    """The same for one conversation."""
    return answer_all(model, [conversation], sampling, raw=raw, salt=salt)[0]

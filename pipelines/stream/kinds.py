"""From the name of a job type to what its workers compute of each record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...grid import catalogue
from ...grid.suggest import did_you_mean
from ..bulk.caption import CaptionSpec
from ..bulk.chat import ChatSpec
from ..bulk.embedding import EmbeddingSpec
from ..bulk.errors import InputError
from ..bulk.generate import GenerateSpec
from ..bulk.operators import OperatorSpec
from ..bulk.transcribe import TranscribeSpec
from .errors import StreamError

KINDS: Mapping[str, Callable[..., OperatorSpec]] = {
    "embedding": EmbeddingSpec,
    "image_gen": GenerateSpec,
    "llm": ChatSpec,
    "vision": CaptionSpec,
    "whisper": TranscribeSpec,
}
"""Job type → the spec of its bulk operator."""
TEXT_TYPES = frozenset({"embedding", "llm", "image_gen"})
"""Those that compute text. The others compute files."""


def spec_for(kind: str, model: str | None, options: Mapping[str, Any]) -> OperatorSpec:
    """`model`: None for the catalogue's default. Raises StreamError for an unknown type or option."""
    if kind not in KINDS:
        raise StreamError(
            f"job type {kind!r} can't be streamed; {', '.join(sorted(KINDS))} can.{did_you_mean(kind, KINDS)}"
        )
    try:
        return KINDS[kind](model=catalogue.canonical(model, kind), **options)
    except (InputError, TypeError, ValueError) as error:
        raise StreamError(f"{kind}: {error}") from error

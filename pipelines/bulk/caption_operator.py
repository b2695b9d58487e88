"""The answers to a window of pictures: several at once, decoded while others are looked at."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...actors.media.image import encode_png
from ...actors.vision.look import Answer, NotAnswered, Pixels, Wish, about
from ...actors.vision.model import VisionModel
from .columns import ANSWER, arrays, fields
from .files import Source, computed
from .operators import Results, as_json
from .pictures import picture, pictures

if TYPE_CHECKING:
    from .caption import CaptionSpec

TOGETHER_BYTES = 256 * 1024 * 1024
"""Pixels that are handed to the model at once: it makes its own batches of that."""
TIMED, TIMED_TOKENS = 4, 16
"""Pictures, and tokens of each answer, by which a model's speed is judged."""


class CaptionOperator:
    """Pictures → answers (a `RowOperator`). Equal pictures are looked at once."""

    harmless = encode_png(np.zeros((8, 8, 3), np.uint8))

    def __init__(self, spec: CaptionSpec, model: VisionModel) -> None:
        self._spec, self._model = spec, model
        self._look = about(b"", spec.task, spec.question, Wish(max_tokens=spec.max_tokens))

    @property
    def fields(self) -> Sequence[Any]:
        return fields(ANSWER, self._spec.prefix)

    @property
    def facts(self) -> Mapping[str, Any]:
        return as_json(self._model.facts)

    def prepare(self, texts: Sequence[Source]) -> list[Pixels | NotAnswered | Source]:
        """The pixels of each picture, as far as there is room for them."""
        return pictures(texts, self._spec.storage)

    def compute(self, prepared: list[Pixels | NotAnswered | Source]) -> Results:
        seen = computed(prepared, lambda one: picture(one, self._spec.storage), self._answered, together=TOGETHER_BYTES)
        return Results(
            columns=arrays(ANSWER, [one if isinstance(one, Answer) else None for one in seen]),
            errors={row: one.why for row, one in enumerate(seen) if isinstance(one, NotAnswered)},
        )

    def rows_per_second(self, texts: Sequence[Source]) -> float:
        """From the beginnings of some answers: each is taken to become a quarter as long as it may."""
        some = [one for one in pictures(texts[:TIMED], self._spec.storage) if isinstance(one, np.ndarray)]
        some = some or [np.zeros((224, 224, 3), np.uint8)]
        tokens = min(TIMED_TOKENS, self._spec.max_tokens)
        short = replace(self._look, wish=Wish(max_tokens=tokens))
        self._model.answer([short], [some[:1]])
        begun = time.monotonic()
        self._model.answer([short] * len(some), [[one] for one in some])
        seconds = max(time.monotonic() - begun, 1e-3)
        return len(some) / seconds * tokens / max(tokens, self._spec.max_tokens / 4)

    def _answered(self, some: Sequence[Pixels]) -> Sequence[Answer | NotAnswered]:
        return self._model.answer([self._look] * len(some), [[one] for one in some])

"""The answers to a window of pictures: several at once, decoded while others are looked at."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ...actors.media.image import encode_png
from ...actors.vision.look import Answer, NotAnswered, Pixels, Wish, about
from ...actors.vision.model import VisionModel
from .files import Source
from .operators import Results
from .pictures import picture, pictures

if TYPE_CHECKING:
    from .caption import CaptionSpec

TOGETHER_BYTES = 256 * 1024 * 1024
"""Pixels that are handed to the model at once: it makes its own batches of that."""
TIMED, TIMED_TOKENS = 4, 16
"""Pictures, and tokens of each answer, by which a model's speed is judged."""
_COLUMNS = {
    "response": ("text", pa.string()),
    "finish_reason": ("finish_reason", pa.string()),
    "prompt_tokens": ("prompt_tokens", pa.int32()),
    "completion_tokens": ("completion_tokens", pa.int32()),
}
"""Result column → field of an `Answer`, and its type."""


class CaptionOperator:
    """Pictures → answers (a `RowOperator`). Equal pictures are looked at once."""

    harmless = encode_png(np.zeros((8, 8, 3), np.uint8))

    def __init__(self, spec: CaptionSpec, model: VisionModel) -> None:
        self._spec, self._model = spec, model
        self._look = about(b"", spec.task, spec.question, Wish(max_tokens=spec.max_tokens))

    @property
    def fields(self) -> Sequence[Any]:
        return [pa.field(self._spec.prefix + name, kind) for name, (_, kind) in _COLUMNS.items()]

    @property
    def facts(self) -> Mapping[str, Any]:
        facts = asdict(self._model.facts)
        return facts | {"versions": dict(facts["versions"])}

    def prepare(self, texts: Sequence[Source]) -> list[Pixels | NotAnswered | Source]:
        """The pixels of each picture, as far as there is room for them."""
        return pictures(texts, self._spec.storage)

    def compute(self, prepared: list[Pixels | NotAnswered | Source]) -> Results:
        found: dict[int, Answer | NotAnswered] = {}
        waiting: dict[int, Pixels] = {}
        for index, one in enumerate(prepared):
            seen = picture(one, self._spec.storage) if isinstance(one, Source) else one
            if isinstance(seen, NotAnswered):
                found[index] = seen
                continue
            waiting[index] = seen
            if sum(each.nbytes for each in waiting.values()) > TOGETHER_BYTES:
                found |= self._answered(waiting)
                waiting = {}
        found |= self._answered(waiting)
        answers = [said if isinstance(said := found[row], Answer) else None for row in range(len(prepared))]
        return Results(
            columns=[
                pa.array([None if said is None else getattr(said, name) for said in answers], kind)
                for name, kind in _COLUMNS.values()
            ],
            errors={row: said.why for row, said in found.items() if isinstance(said, NotAnswered)},
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

    def _answered(self, waiting: Mapping[int, Pixels]) -> dict[int, Answer | NotAnswered]:
        answers = self._model.answer([self._look] * len(waiting), [[one] for one in waiting.values()])
        return dict(zip(waiting, answers, strict=True))

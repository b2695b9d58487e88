"""The pictures of a window of rows, as files in the column or beside it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...actors.diffusion.model import DiffusionModel
from ...actors.diffusion.picture import NotDrawn
from ...actors.llm.seeds import derived
from ...actors.media.image import encode_png
from ..image_gen import MAX_PROMPT
from .operators import Results, Row, as_json
from .pulse import Pulse, teller
from .target import Target, open_target
from .window import HARMLESS

if TYPE_CHECKING:
    from .generate import GenerateSpec

TOGETHER = 32
"""Rows that are handed to the model at once: it makes its own batches of them, and what is drawn is held as files."""
TIMED_STEPS = 2


class GenerateOperator:
    """Rows → pictures (a `RowOperator`). Rows with the same text have different pictures: each has its own seed."""

    by_row = True

    def __init__(self, spec: GenerateSpec, model: DiffusionModel) -> None:
        self._spec, self._model = spec, model
        self._files: Target | None = None if spec.files is None else open_target(spec.files, dict(spec.storage))

    @property
    def fields(self) -> Sequence[Any]:
        kind = pa.binary() if self._files is None else pa.string()
        return [pa.field(f"{self._spec.prefix}image", kind), pa.field(f"{self._spec.prefix}seed", pa.int64())]

    @property
    def facts(self) -> Mapping[str, Any]:
        return as_json(self._model.facts)

    def prepare(self, texts: Sequence[Row]) -> Sequence[Row]:
        return texts

    def compute(self, prepared: Sequence[Row]) -> Results:
        images: list[bytes | str | None] = []
        errors: dict[int, str] = {}
        for start in range(0, len(prepared), TOGETHER):
            for row, found in self._drawn(prepared[start : start + TOGETHER]):
                if isinstance(found, str):
                    errors[len(images)] = found
                images.append(None if isinstance(found, str) else self._kept(row, found))
        seeds = [None if image is None else self._seed(row) for row, image in zip(prepared, images, strict=True)]
        kinds = [field.type for field in self.fields]
        return Results([pa.array(images, kinds[0]), pa.array(seeds, kinds[1])], errors)

    def rows_per_second(self, texts: Sequence[str]) -> float:
        """From a few steps of one picture."""
        steps = self._spec.steps or self._model.facts.steps
        wish = replace(self._spec.wish(HARMLESS, 0), steps=min(TIMED_STEPS, steps))
        self._model.draw([wish])
        begun = time.monotonic()
        self._model.draw([wish])
        seconds = max(time.monotonic() - begun, 1e-3)
        return min(TIMED_STEPS, steps) / steps / seconds

    def _drawn(self, rows: Sequence[Row]) -> list[tuple[Row, bytes | str]]:
        """For each row its picture as a file, or why there is none."""
        drawable = [row for row in rows if 0 < len(row.text) <= MAX_PROMPT]
        steps, tell = self._spec.steps or self._model.facts.steps, teller()

        def told(done: int, total: int) -> None:
            before, now = divmod(max(0, done - 1), steps)
            tell(Pulse(before * len(drawable) * steps // max(1, total), now + 1, steps))

        found = iter(self._model.draw([self._spec.wish(row.text, self._seed(row)) for row in drawable], told=told))
        outcomes: list[tuple[Row, bytes | str]] = []
        for row in rows:
            if not 0 < len(row.text) <= MAX_PROMPT:
                outcomes.append((row, f"a prompt has 1 to {MAX_PROMPT:,} characters, not {len(row.text):,}"))
                continue
            one = next(found)
            outcomes.append((row, one.why if isinstance(one, NotDrawn) else encode_png(one.pixels)))
        return outcomes

    def _kept(self, row: Row, image: bytes) -> bytes | str:
        """The picture, or where it is now. Done twice, it is the same file under the same name."""
        if self._files is None:
            return image
        name = f"{row.number:08d}-{hashlib.sha256(image).hexdigest()[:12]}.png"
        self._files.create(name, image)
        return f"{self._files.url.rstrip('/')}/{name}"

    def _seed(self, row: Row) -> int:
        return derived(self._spec.seed, row.number)

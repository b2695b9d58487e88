"""The part of `Grid` that draws pictures and looks at them: both as futures."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

from distributed import Client, Future

from ..actors.diffusion.picture import Wish as Drawn
from ..actors.diffusion.tasks import draw_each, draw_one
from ..actors.vision.look import Task, Wish, about
from ..actors.vision.tasks import answer_one
from ..grid import catalogue
from ..grid.jobs import Ask
from ..pipelines.bulk import BulkReport, caption_parquet, generate_parquet
from ..pipelines.image_gen import SEED_BITS
from .grid_speech import Recording as Picture
from .grid_speech import content_of


class GridImages:
    """What a `Grid` can do with pictures. Its host gives `client`, `_annotated`, `_submit` and `_make_way`."""

    client: Client
    _annotated: Callable[..., Any]
    _submit: Callable[..., Future]
    _make_way: Callable[..., None]

    def generate_image(self, prompt: str, *, model: str | None = None, seed: int | None = None, **wish: Any) -> Future:
        """A future of a `Drawing`: a PNG file of what `prompt` says, with its size and its seed.

        `wish`: see `Wish` of `idlegrid.actors.diffusion.picture`, e.g. ``width=768, steps=20``. Raises TypeError for
        another word; the future fails with DrawingRefused for what the model can't draw.
        """
        name = catalogue.canonical(model, "image_gen")
        asked = Drawn(prompt=prompt, seed=secrets.randbits(SEED_BITS) if seed is None else seed, **wish)
        with self._annotated(Ask(type="image_gen", model=name)):
            return self._submit(draw_one, name, asked, name="generate_image")

    def map_generate_image(
        self, prompts: Iterable[str], *, model: str | None = None, batch_size: int = 4, seed: int = 0, **wish: Any
    ) -> list[Future]:
        """Futures of lists of `Drawing`, one per `batch_size` prompts, in order; a batch is drawn together.

        The picture of prompt i has the seed ``seed + i``. For whole datasets use `generate_parquet`.
        """
        if isinstance(prompts, str):
            raise TypeError("prompts must be a list of texts; for one use `generate_image`")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        name = catalogue.canonical(model, "image_gen")
        wishes = [Drawn(prompt=prompt, seed=seed + number, **wish) for number, prompt in enumerate(prompts)]
        with self._annotated(Ask(type="image_gen", model=name)):
            return [
                self._submit(draw_each, name, wishes[first : first + batch_size], name="generate_image")
                for first in range(0, len(wishes), batch_size)
            ]

    def analyze_image(
        self,
        image: Picture,
        question: str | None = None,
        *,
        task: Task | None = None,
        model: str | None = None,
        **wish: Any,
    ) -> Future:
        """A future of an `Answer` about a picture (its content, or its path on this machine).

        `task`: see the job type `vision`; None: the answer to `question`, or a caption where there is none. `wish`: see
        `Wish` of `idlegrid.actors.vision.look`, e.g. ``max_tokens=100``. Raises OSError for a file that can't be read;
        the future fails with LookRefused for what is no picture.
        """
        wanted = task or ("image_qa" if question else "image_caption")
        if (wanted == "image_qa") != (question is not None):
            raise ValueError("the task image_qa needs a question, and no other takes one")
        name = catalogue.canonical(model, "vision")
        look = about(content_of(image), wanted, question, Wish(**wish))
        with self._annotated(Ask(type="vision", model=name)):
            return self._submit(answer_one, name, look, name="analyze_image")

    def generate_parquet(self, source: str, target: str, *, prompt_column: str, **options: Any) -> BulkReport:
        """Draw a picture for every row of a Parquet dataset into a new dataset; resumes where it was stopped.

        See `idlegrid.pipelines.bulk.generate_parquet` for the options and what is guaranteed.
        """
        self._make_way()
        return generate_parquet(self.client, source, target, prompt_column=prompt_column, **options)

    def caption_parquet(self, source: str, target: str, *, image_column: str, **options: Any) -> BulkReport:
        """Say what is in every picture of a Parquet dataset, into a new dataset; resumes where it was stopped.

        See `idlegrid.pipelines.bulk.caption_parquet` for the options and what is guaranteed.
        """
        self._make_way()
        return caption_parquet(self.client, source, target, image_column=image_column, **options)

"""Bulk image generation: a picture for every row of a Parquet dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from pydantic import ValidationError

from ...actors.diffusion.picture import SIDE, Wish, refusal
from ...grid import catalogue
from ..image_gen import ImageGenParams
from .errors import InputError
from .job import BulkReport
from .run import LONG_UNIT_SECONDS, RunOptions, Source, run_job
from .specs import MediaSpec
from .target import Target

if TYPE_CHECKING:
    from .generate_operator import GenerateOperator
    from .plan import Plan

LONG_PICTURE = 60.0
"""Seconds for one picture beyond which that is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSpec(MediaSpec):
    """Which pictures are wanted (an `OperatorSpec`)."""

    same_on_all_workers = ("revision", "dtype", "pipeline")
    wanted = ("negative_prompt", "width", "height", "steps", "seed", "files", "dtype")

    negative_prompt: str | None = None
    """What should be in none of them."""
    width: int = SIDE
    """Pixels."""
    height: int = SIDE
    steps: int | None = None
    """Of the denoiser. None: as many as the model usually takes."""
    seed: int = 0
    """With a row's number it makes the row's own seed: the same job gives the same pictures again."""
    files: str | None = None
    """Folder or URL for the pictures; the column then has their paths. None: the column has the files."""

    def __post_init__(self) -> None:
        names = ("model", "negative_prompt", "width", "height", "steps", "seed")
        try:
            ImageGenParams(prompt="any", **{name: getattr(self, name) for name in names})
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{' '.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from None

    @property
    def job_type(self) -> str:
        return "image_gen"

    def wish(self, prompt: str, seed: int) -> Wish:
        """The picture of one row."""
        names = ("width", "height", "steps")
        fields = {name: getattr(self, name) for name in names}
        return Wish(prompt=prompt, negative_prompt=self.negative_prompt or None, seed=seed, **fields)

    @property
    def first_words(self) -> str:
        """Told before a worker is asked, which takes long where there is no GPU."""
        return f"a worker loads {self.model} and tries two steps of {self.width}x{self.height}"

    def warning(self, plan: Plan) -> str:
        """Told of a job whose pictures take longer than anybody expects."""
        if not 0 < plan.rows_per_second < 1 / LONG_PICTURE:
            return ""
        steps = self.steps or plan.facts.get("steps")
        return (
            f"one picture of {self.width}x{self.height} in {steps} steps takes a worker ({plan.facts.get('device')}) "
            f"about {1 / plan.rows_per_second / 60:,.0f} minutes; a smaller --size or fewer --steps take less"
        )

    def load(self) -> GenerateOperator:
        """Raises ValueError for what this model can't draw."""
        from ...actors.diffusion.resident import diffusion_model  # brings torch, which only a worker has
        from .generate_operator import GenerateOperator

        model = diffusion_model(self.model, dtype=self.dtype)
        why = refusal(self.wish("any", 0), model.facts)
        if why is not None:
            raise ValueError(why)
        return GenerateOperator(self, model)


def generate_parquet(
    client: Any,
    source: Source,
    target: str | Path | Target,
    *,
    prompt_column: str,
    model: str | None = None,
    negative_prompt: str | None = None,
    width: int = SIDE,
    height: int = SIDE,
    steps: int | None = None,
    seed: int = 0,
    files: str | Path | None = None,
    dtype: str = "auto",
    prefix: str = "",
    **run: Unpack[RunOptions],
) -> BulkReport:
    """Draw a picture for every row of Parquet files; write the same rows plus the pictures and an error column.

    The result columns are ``image`` (a PNG file; with `files`, its path in that folder) and ``seed``, each behind
    `prefix`. A row's seed follows from `seed` and its number in the input: with it the same picture can be asked for
    alone. The name of a file begins with the row's number.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    folder = None if files is None else str(files if "://" in str(files) else Path(files).expanduser().absolute())
    spec = GenerateSpec(
        model=catalogue.canonical(model, "image_gen"),
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        steps=steps,
        seed=seed,
        files=folder,
        dtype=dtype,
        prefix=prefix,
        storage=run.get("storage_options") or {},
    )
    return run_job(client, spec, source, target, prompt_column, run, unit_seconds=LONG_UNIT_SECONDS)

"""Bulk image generation: a picture for every row of a Parquet dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...actors.diffusion.picture import SIDE, Wish, refusal
from ...grid import catalogue
from ..image_gen import ImageGenParams
from .errors import InputError
from .job import BulkJob, BulkReport, Listener
from .target import Target
from .watch import Patience

if TYPE_CHECKING:
    from .generate_operator import GenerateOperator

UNIT_SECONDS = 60.0
"""A part's size: longer than for texts, since one picture may take many seconds."""
_SAME_ON_ALL_WORKERS = ("revision", "dtype", "pipeline")


@dataclass(frozen=True, slots=True)
class GenerateSpec:
    """Which pictures are wanted (an `OperatorSpec`)."""

    model: str
    """Folder, catalogue name or Hugging Face id."""
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
    dtype: str = "auto"
    """Of the weights. All workers use what the first one chose."""
    prefix: str = ""
    """Before the names of the result columns."""
    storage: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For fsspec, where `files` is a URL. Never written anywhere."""
    column_option = "--prefix"

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

    @property
    def options(self) -> Mapping[str, Any]:
        names = ("negative_prompt", "width", "height", "steps", "seed", "files", "dtype")
        return {name: getattr(self, name) for name in names} | {"column_prefix": self.prefix}

    def pinned(self, facts: Mapping[str, Any]) -> GenerateSpec:
        return replace(self, dtype=facts["dtype"])

    def identity(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: facts[name] for name in _SAME_ON_ALL_WORKERS}

    def wish(self, prompt: str, seed: int) -> Wish:
        """The picture of one row."""
        names = ("width", "height", "steps")
        fields = {name: getattr(self, name) for name in names}
        return Wish(prompt=prompt, negative_prompt=self.negative_prompt or None, seed=seed, **fields)

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
    source: str | Path | Sequence[str | Path],
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
    error_column: str = "error",
    on_progress: Listener | None = None,
    dry_run: bool = False,
    max_error_ratio: float | None = None,
    unit_seconds: float = UNIT_SECONDS,
    unit_rows: int | None = None,
    storage_options: dict[str, Any] | None = None,
    patience: Patience | None = None,
) -> BulkReport:
    """Draw a picture for every row of Parquet files; write the same rows plus the pictures and an error column.

    The result columns are ``image`` (a PNG file; with `files`, its path in that folder) and ``seed``, each behind
    `prefix`. A row's seed follows from `seed` and its number in the input: with it the same picture can be asked for
    alone. The name of a file begins with the row's number.

    Everything else is as in `embed_parquet`: order, resuming, errors, what is raised.
    """
    folder = None if files is None else str(files if "://" in str(files) else Path(files).expanduser().absolute())
    job = BulkJob(
        spec=GenerateSpec(
            model=catalogue.canonical(model, "image_gen"),
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            seed=seed,
            files=folder,
            dtype=dtype,
            prefix=prefix,
            storage=storage_options or {},
        ),
        source=source,
        target=target,
        column=prompt_column,
        error_column=error_column,
        unit_seconds=unit_seconds,
        unit_rows=unit_rows,
        max_error_ratio=max_error_ratio,
        storage_options=storage_options,
        patience=patience or Patience(),
    )
    return job.run(client, on_progress, dry_run=dry_run)

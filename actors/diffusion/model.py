"""An image generator of diffusers that stays loaded: wishes in, pictures out, many at once."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...grid import catalogue
from ..devices import chosen_device, describe, half_of, named_dtype
from ..halving import in_halves
from ..model_pins import own_code
from ..models import DIFFUSERS, resolve, revision
from . import offload
from .picture import Check, DiffusionFacts, NotDrawn, Picture, Told, Wish, nothing, refusal, untold

MAX_BATCH = {"cpu": 1, "cuda": 8}
"""Pictures that are drawn at once. On a CPU there is nothing to gain from more: one keeps all its cores busy."""
BATCH_PIXELS = 4 * 1024 * 1024
"""Of a batch: larger pictures are drawn by fewer."""
Outcome = Picture | NotDrawn


class DiffusionModel:
    """Any text-to-image pipeline of diffusers, a local folder or an id of the hub, weights from safetensors only.

    bf16 (fp16 where the GPU has none) on a GPU, fp32 on a CPU unless told otherwise. The noise of a picture comes from
    a generator of its own on the CPU: it doesn't depend on the batch or the device. What is computed from it in a batch
    may differ from the same alone by rounding, which is one of 255 levels in few places; alone, and always on a CPU, it
    is the same to the bit. No safety checker is loaded. Thread-safe; one batch computes at a time.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        cpu_offload: bool = True,
        batch: int | None = None,
    ) -> None:
        """`cpu_offload`: whether weights may wait in main memory where the GPU is too small. `batch`: pictures at once.

        Raises ModelNotFound, NoRoom, or ValueError for what draws no pictures of texts.
        """
        folder = resolve(model, layout=DIFFUSERS)
        self._device = chosen_device(device)
        self._dtype = named_dtype(dtype, half_of(self._device))
        with own_code(model, folder) as trusted:
            self._pipe = _loaded(folder, self._dtype, trusted)
        self._accepted = inspect.signature(type(self._pipe).__call__).parameters
        if "callback_on_step_end" not in self._accepted:
            raise ValueError(
                f"{model}: {type(self._pipe).__name__} can't be followed step by step, and is not used here"
            )
        listed = catalogue.find(model)
        self._rules = (listed.images if listed else None) or catalogue.ImageRules()
        placed = self._place(cpu_offload)
        self._batch = batch or MAX_BATCH[self._device.type]
        self._lock = threading.Lock()
        self.facts = DiffusionFacts(
            model=model,
            revision=revision(folder),
            pipeline=type(self._pipe).__name__,
            dtype=str(self._dtype).removeprefix("torch."),
            device=describe(self._device),
            offload=placed,
            steps=self._rules.steps or int(self._accepted["num_inference_steps"].default),
            max_steps=self._rules.max_steps,
            max_pixels=self._rules.max_pixels,
            multiple=_multiple(self._pipe),
            negative=self._guided_away(),
            versions={name: version(name) for name in ("diffusers", "torch", "transformers")},
        )

    def draw(self, wishes: Sequence[Wish], *, check: Check = nothing, told: Told = untold) -> list[Outcome]:
        """A picture for each wish, in order, or why there is none.

        `check` is called before each step. `told(done, total)` hears of steps, over all batches.
        """
        found: dict[int, Outcome] = {}
        for index, wish in enumerate(wishes):
            why = refusal(wish, self.facts)
            if why is not None:
                found[index] = NotDrawn(why, refused=True)
        batches = list(self._batches(wishes, [index for index in range(len(wishes)) if index not in found]))
        total = sum(self._steps(wishes[batch[0]]) for batch in batches)
        done = 0
        for batch in batches:
            check()
            before = done

            def step(now: int, before: int = before) -> None:
                told(before + now, total)
                check()

            some = [wishes[index] for index in batch]
            found |= zip(batch, self._drawn(some, step), strict=True)
            done += self._steps(some[0])
        return [found[index] for index in range(len(wishes))]

    def _steps(self, wish: Wish) -> int:
        return wish.steps or self.facts.steps

    def _batches(self, wishes: Sequence[Wish], indices: Sequence[int]) -> Iterator[list[int]]:
        """Those that can be drawn together: of one size, with as many steps, all or none with a negative prompt."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index in indices:
            wish = wishes[index]
            key = (wish.width, wish.height, self._steps(wish), bool(wish.negative_prompt))
            groups.setdefault(key, []).append(index)
        for (width, height, *_), group in groups.items():
            size = max(1, min(self._batch, BATCH_PIXELS // (width * height)))
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _drawn(self, wishes: list[Wish], step: Callable[[int], None]) -> list[Outcome]:
        """One batch; in halves where it is too large for the GPU."""

        def run(some: Sequence[Wish]) -> list[Outcome]:
            return [_picture(one, wish) for one, wish in zip(self._run(some, step), some, strict=True)]

        return in_halves(wishes, run, self._fits)

    def _fits(self, batch: int) -> None:
        self._batch = batch

    def _run(self, wishes: Sequence[Wish], step: Callable[[int], None]) -> Any:
        """(B, H, W, 3) float32 in [0, 1], or NaN where the computation broke down."""
        first, steps = wishes[0], self._steps(wishes[0])
        options: dict[str, Any] = {"guidance_scale": self._rules.guidance} if self._rules.guidance is not None else {}
        if first.negative_prompt:
            options["negative_prompt"] = [wish.negative_prompt for wish in wishes]

        def ended(pipe: Any, number: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
            rounds = getattr(pipe, "num_timesteps", steps)  # some schedulers look twice in a step
            step(min(steps, (number + 1) * steps // max(1, rounds)))
            return given

        with self._lock, _quiet():
            try:
                return self._pipe(
                    prompt=[wish.prompt for wish in wishes],
                    width=first.width,
                    height=first.height,
                    num_inference_steps=steps,
                    generator=[torch.Generator("cpu").manual_seed(wish.seed) for wish in wishes],
                    output_type="np",
                    callback_on_step_end=ended,
                    **options,
                ).images
            except BaseException:
                self._pipe.maybe_free_model_hooks()  # what was brought to the GPU goes back
                raise

    def _place(self, allowed: bool) -> offload.Offload:
        """Bring the weights to where they are kept."""
        if self._device.type != "cuda":
            self._pipe.to(self._device)
            return "none"
        parts = [one for one in self._pipe.components.values() if isinstance(one, torch.nn.Module)]
        sizes = [sum(weight.nbytes for weight in part.parameters()) for part in parts]
        free, _ = torch.cuda.mem_get_info(self._device)
        where = offload.chosen(sizes, free, allowed=allowed)
        if where == "none":
            self._pipe.to(self._device)
        elif where == "model":
            self._pipe.enable_model_cpu_offload(device=self._device)
        else:
            self._pipe.enable_sequential_cpu_offload(device=self._device)
        return where

    def _guided_away(self) -> bool:
        """Whether a negative prompt has an effect: guidance compares with it, and does so with this model."""
        if "negative_prompt" not in self._accepted or not self._rules.negative:
            return False
        scale = self._accepted.get("true_cfg_scale") or self._accepted.get("guidance_scale")
        usual = scale.default if scale is not None and isinstance(scale.default, int | float) else None
        if self._rules.guidance is not None and "true_cfg_scale" not in self._accepted:
            usual = self._rules.guidance
        return usual is not None and usual > 1


def _loaded(folder: Path, dtype: torch.dtype, trusted: bool) -> Any:
    """The pipeline in main memory. Raises ValueError for a folder that holds something else."""
    with _quiet():
        from diffusers import AutoPipelineForText2Image, DiffusionPipeline

        config = DiffusionPipeline.load_config(folder, local_files_only=True)
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in config else {}
        own = isinstance(config.get("_class_name"), list | tuple)  # a pipeline of the model's own: module and class
        kind = DiffusionPipeline if own else AutoPipelineForText2Image
        pipe = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=trusted, **unchecked
        )
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe.vae, "enable_slicing"):
        pipe.vae.enable_slicing()  # one picture of a batch at a time: the VAE's memory is the largest of all
    return pipe


def _multiple(pipe: Any) -> int:
    """Of what width and height are multiples: what the VAE makes one of, twice that where patches are taken of it."""
    patch = 2 if getattr(pipe, "transformer", None) is not None else 1
    return int(getattr(pipe, "vae_scale_factor", 8)) * patch


def _picture(pixels: Any, wish: Wish) -> Outcome:
    if not np.isfinite(pixels).all():
        return NotDrawn(
            "the model gave numbers that are none (NaN): its weights are broken, or their number format is too narrow; "
            "try another worker, or dtype float32",
            refused=False,
        )
    return Picture((pixels * 255).round().astype(np.uint8), wish.seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers imports and warns of much that nobody asked for here."""
    with warnings.catch_warnings(action="ignore"):
        from diffusers.utils import logging
        from transformers.utils import logging as transformers_logging

        for one in (logging, transformers_logging):
            one.disable_progress_bar()
            one.set_verbosity_error()
        yield

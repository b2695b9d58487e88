"""What is asked of an image generator, and what it gives. Torch-free: doors and tables use these too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 1024
"""Pixels of a side, where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A picture that is wanted."""

    prompt: str
    negative_prompt: str | None = None
    """What should not be in it."""
    width: int = SIDE
    """Pixels."""
    height: int = SIDE
    steps: int | None = None
    """Of the denoiser. None: as many as the model usually takes."""
    seed: int = 0
    """With everything else the same, the same seed gives the same picture."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What was drawn."""

    pixels: NDArray[np.uint8]
    """(H, W, 3), RGB."""
    seed: int


@dataclass(frozen=True, slots=True)
class NotDrawn:
    """A wish without a picture; the others of its call have theirs."""

    why: str
    refused: bool
    """True: this model can never do that. False: it went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionFacts:
    """What draws, for provenance."""

    model: str
    """The id that was asked for."""
    revision: str
    """SHA-256 (16 hex digits) of configuration and weights."""
    pipeline: str
    """Its class in diffusers, e.g. ``StableDiffusionXLPipeline``."""
    dtype: str
    device: str
    offload: str
    """Where weights wait for their turn: ``none`` (on the device), ``model`` or ``sequential`` (in main memory)."""
    steps: int
    """That it takes where nobody says otherwise."""
    max_steps: int
    max_pixels: int
    """Width times height."""
    multiple: int
    """Width and height must be multiples of it."""
    negative: bool
    """Whether a negative prompt has an effect."""
    versions: Mapping[str, str]
    """Of the libraries that compute."""


Check = Callable[[], None]
"""Called between steps; what it raises ends the work."""
Told = Callable[[int, int], None]
"""Hears how many steps are done, of how many."""


def nothing() -> None:
    """Nobody stops the work."""


def untold(done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


def refusal(wish: Wish, facts: DiffusionFacts) -> str | None:
    """Why this model can't draw that. None: it can."""
    if wish.width % facts.multiple or wish.height % facts.multiple:
        return f"{wish.width} × {wish.height}: width and height must be multiples of {facts.multiple} for {facts.model}"
    if wish.width * wish.height > facts.max_pixels:
        return f"{wish.width} × {wish.height} is more than the {facts.max_pixels:,} pixels that {facts.model} draws"
    if wish.steps is not None and wish.steps > facts.max_steps:
        return f"{wish.steps} steps: {facts.model} takes at most {facts.max_steps}"
    if wish.negative_prompt and not facts.negative:
        return f"{facts.model} is not guided away from anything: leave negative_prompt out"
    return None

"""What is asked of a model that sees, and what it answers. Torch-free: doors and tables use these too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""(H, W, 3), RGB."""
Task = Literal["image_qa", "image_caption", "ocr"]
PROMPTS: Mapping[Task, str] = {
    "image_caption": "Describe this image in one or two sentences.",
    "ocr": "Read all text in this image. Answer with that text alone, line by line.",
}
"""What a model is told for a task that needs no question."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    parts: tuple[str | None, ...]
    """Texts, and None where a picture stands: the next one of the conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How an answer is made."""

    max_tokens: int = 1024
    """At most; the model's context may end it earlier."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    seed: int = 0
    """With the same seed a temperature gives the same answer."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""


@dataclass(frozen=True, slots=True)
class Look:
    """A conversation with pictures, up to where its answer begins."""

    turns: tuple[Turn, ...]
    pictures: tuple[bytes, ...]
    """Files, in the order in which they stand in the turns."""
    wish: Wish = Wish()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    """Those that stand for pictures included."""
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """A look that can't be taken, and why; the others of its call are."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFacts:
    """What answers, for provenance."""

    model: str
    """The id that was asked for."""
    revision: str
    """SHA-256 (16 hex digits) of configuration and weights."""
    kind: str
    """Its architecture in transformers, e.g. ``llava``."""
    dtype: str
    device: str
    context: int
    """Tokens of a conversation and its answer."""
    versions: Mapping[str, str]
    """Of the libraries that compute."""


def about(picture: bytes, task: Task, question: str | None, wish: Wish) -> Look:
    """One question about one picture."""
    said = question if task == "image_qa" and question else PROMPTS.get(task, "")
    return Look((Turn("user", (None, said)),), (picture,), wish)


Check = Callable[[], None]
"""Called after each token; what it raises ends the work."""
Told = Callable[[int, int], None]
"""Hears how many tokens the answer has, of at most how many."""


def nothing() -> None:
    """Nobody stops the work."""


def untold(done: int, total: int) -> None:
    """Nobody wants to know how far it is."""

"""What a Dask task calls on a worker to have pictures drawn: PNG files come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..media.image import encode_png
from ..wanted import still_wanted
from .picture import NotDrawn, Wish
from .resident import diffusion_model


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture as a file."""

    data: bytes
    """PNG."""
    width: int
    height: int
    seed: int


class DrawingFailed(RuntimeError):
    """The model gave no picture though it can do what was asked: another worker may do better."""


class DrawingRefused(ValueError):
    """This model can't draw what it was asked to: the message says why."""


def draw_all(model: str, wishes: Sequence[Wish]) -> list[Drawing | NotDrawn]:
    """A picture for each wish, by this worker's resident copy of `model`; those of one size are drawn together.

    Raises Cancelled between two steps, when nobody wants them any more.
    """
    found = diffusion_model(model).draw(wishes, check=still_wanted())
    return [
        one if isinstance(one, NotDrawn) else Drawing(encode_png(one.pixels), wish.width, wish.height, one.seed)
        for one, wish in zip(found, wishes, strict=True)
    ]


def draw_each(model: str, wishes: Sequence[Wish]) -> list[Drawing]:
    """The same, where one without a picture is an error for all. Raises DrawingRefused, DrawingFailed."""
    return [drawn(one) for one in draw_all(model, wishes)]


def draw_one(model: str, wish: Wish) -> Drawing:
    """The same for one."""
    return draw_each(model, [wish])[0]


def drawn(one: Drawing | NotDrawn) -> Drawing:
    """The picture. Raises DrawingRefused, DrawingFailed."""
    if not isinstance(one, NotDrawn):
        return one
    raise (DrawingRefused if one.refused else DrawingFailed)(one.why)

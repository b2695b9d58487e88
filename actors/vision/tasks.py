"""What a Dask task calls on a worker to have questions about pictures answered."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..media.image import decode_image
from ..media.limits import MediaError
from ..wanted import still_wanted
from .look import Answer, Look, NotAnswered, Pixels
from .resident import vision_model

THREADS = 4
"""Pictures that are decoded at once."""


class LookRefused(ValueError):
    """The question can't be answered by this model: the message says why."""


def answer_all(model: str, looks: Sequence[Look]) -> list[Answer | NotAnswered]:
    """An answer to each look, by this worker's resident copy of `model`; they are written together.

    Raises Cancelled between two tokens, when nobody wants them any more.
    """
    check, resident = still_wanted(), vision_model(model)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="look-decode") as pool:
        opened = list(pool.map(_pixels, looks))
    seen = [(look, pixels) for look, pixels in zip(looks, opened, strict=True) if not isinstance(pixels, NotAnswered)]
    answers = iter(resident.answer([look for look, _ in seen], [pixels for _, pixels in seen], check=check))
    return [one if isinstance(one, NotAnswered) else next(answers) for one in opened]


def answer_each(model: str, looks: Sequence[Look]) -> list[Answer]:
    """The same, where one that can't be answered is an error for all. Raises LookRefused."""
    return [answered(one) for one in answer_all(model, looks)]


def answer_one(model: str, look: Look) -> Answer:
    """The same for one."""
    return answer_each(model, [look])[0]


def answered(one: Answer | NotAnswered) -> Answer:
    """The answer. Raises LookRefused."""
    if isinstance(one, NotAnswered):
        raise LookRefused(one.why)
    return one


def _pixels(look: Look) -> list[Pixels] | NotAnswered:
    try:
        return [decode_image(picture) for picture in look.pictures]
    except MediaError as error:
        return NotAnswered(str(error))

"""What a Dask task calls on a worker to have recordings heard."""

from __future__ import annotations

from collections.abc import Sequence

from ..media.audio import decode_audio
from ..media.limits import MediaError
from ..wanted import still_wanted
from .resident import whisper_model
from .speech import NotHeard, Samples, Transcript, Wish


def transcribe_all(model: str, files: Sequence[bytes], wish: Wish) -> list[Transcript | NotHeard]:
    """What is said in each sound file, by this worker's resident copy of `model`; all are heard together.

    Raises WishRefused, and Cancelled between two tokens, when nobody wants them any more.
    """
    check, resident = still_wanted(), whisper_model(model)
    sounds = []
    for file in files:
        check()
        sounds.append(_samples(file))
    clips = [one for one in sounds if not isinstance(one, NotHeard)]
    heard = iter(resident.transcribe(clips, wish, check=check))
    return [one if isinstance(one, NotHeard) else next(heard) for one in sounds]


def transcribe_each(model: str, files: Sequence[bytes], wish: Wish) -> list[Transcript]:
    """The same, where one that can't be heard is an error for all. Raises MediaError, WishRefused."""
    found: list[Transcript] = []
    for number, one in enumerate(transcribe_all(model, files, wish)):
        if isinstance(one, NotHeard):
            raise MediaError(f"recording {number}: {one.why}")
        found.append(one)
    return found


def transcribe_one(model: str, file: bytes, wish: Wish) -> Transcript:
    """The same for one."""
    return transcribe_each(model, [file], wish)[0]


def _samples(file: bytes) -> Samples | NotHeard:
    try:
        return decode_audio(file).samples
    except MediaError as error:
        return NotHeard(str(error))

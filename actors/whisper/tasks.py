"""What a Dask task calls on a worker to have recordings heard."""

from __future__ import annotations

from collections.abc import Sequence

from ..media.audio import decode_audio
from ..media.limits import MediaError
from .resident import whisper_model
from .speech import NotHeard, Samples, Transcript, Wish


def transcribe_all(model: str, files: Sequence[bytes], wish: Wish) -> list[Transcript | NotHeard]:
    """What is said in each sound file, by this worker's resident copy of `model`; all are heard together.

    Raises WishRefused.
    """
    resident = whisper_model(model)
    sounds = [_samples(file) for file in files]
    clips = [one for one in sounds if not isinstance(one, NotHeard)]
    heard = iter(resident.transcribe(clips, wish))
    return [one if isinstance(one, NotHeard) else next(heard) for one in sounds]


def transcribe_one(model: str, file: bytes, wish: Wish) -> Transcript:
    """The same for one. Raises ValueError for a file that is no recording, or too long."""
    [found] = transcribe_all(model, [file], wish)
    if isinstance(found, NotHeard):
        raise MediaError(found.why)
    return found


def _samples(file: bytes) -> Samples | NotHeard:
    try:
        return decode_audio(file).samples
    except MediaError as error:
        return NotHeard(str(error))

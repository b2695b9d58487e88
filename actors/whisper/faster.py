"""faster-whisper (CTranslate2) as a speech engine, where it is installed: the same face, another library behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .speech import SAMPLE_RATE, Samples, Segment, SpeechFacts, Transcript, Wish, WishRefused, Word, nothing, untold

INSTALL = "pip install 'faster-whisper>=1.1'"
_COMPUTE = {"auto": "default", "float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8"}
WINDOW = 30.0


class EngineMissing(RuntimeError):
    """The engine is not installed on this machine. The message says how it is."""


class FasterWhisper:
    """A CTranslate2 conversion of a Whisper model (a `SpeechModel`): a folder with `model.bin`, or a size's name.

    Each recording is heard by the library's own batched way, which cuts by its voice detector. Its weights are plain
    numbers in a format of CTranslate2's: nothing in them is code.
    """

    def __init__(self, model: str, *, dtype: str = "auto", device: str = "auto") -> None:
        """Raises EngineMissing, or ValueError for a `dtype` or a model that it hasn't got."""
        if dtype not in _COMPUTE:
            raise ValueError(f"dtype must be one of {', '.join(_COMPUTE)}, not {dtype!r}")
        library = _library()
        name = _name(model)
        self._model: Any = library.WhisperModel(name, device=device.partition(":")[0], compute_type=_COMPUTE[dtype])
        self._batched: Any = library.BatchedInferencePipeline(self._model)
        self._languages = tuple(self._model.supported_languages)
        self.facts = SpeechFacts(
            model=model,
            revision=f"ctranslate2:{Path(name).name}",
            engine="faster-whisper",
            dtype=dtype,
            device=device,
            window=WINDOW,
            languages=self._languages,
            versions={"faster-whisper": _version("faster-whisper"), "ctranslate2": _version("ctranslate2")},
        )

    def transcribe(
        self,
        clips: Sequence[Samples],
        wish: Wish,
        *,
        check: Callable[[], None] = nothing,
        told: Callable[[int, int], None] = untold,
    ) -> list[Transcript]:
        """See `SpeechModel.transcribe`; `check` is asked after each segment."""
        if wish.language is not None and wish.language not in self._languages:
            known = ", ".join(self._languages)
            raise WishRefused(f"language {wish.language[:40]!r} is not one that this model knows: {known}")
        found, total = [], sum(map(len, clips)) // SAMPLE_RATE
        for index, clip in enumerate(clips):
            check()
            found.append(self._one(clip, wish, check))
            told(sum(map(len, clips[: index + 1])) // SAMPLE_RATE, total)
        return found

    def _one(self, clip: Samples, wish: Wish, check: Callable[[], None]) -> Transcript:
        segments, info = self._batched.transcribe(
            clip,
            language=wish.language,
            task=wish.task,
            initial_prompt=wish.prompt,
            temperature=wish.temperature,
            word_timestamps=wish.words,
            without_timestamps=False,
        )
        said: list[Any] = []
        for segment in segments:  # computed while they are read
            check()
            said.append(segment)
        duration = round(len(clip) / SAMPLE_RATE, 3)

        def at(seconds: float) -> float:
            return min(round(float(seconds), 3), duration)  # it also hears what fills a window up

        words = [Word(at(one.start), at(one.end), one.word.strip()) for segment in said for one in segment.words or ()]
        return Transcript(
            text="".join(one.text for one in said).strip(),
            language=info.language,
            duration=duration,
            segments=tuple(Segment(at(one.start), at(one.end), one.text.strip(), tuple(one.tokens)) for one in said),
            words=tuple(words) if wish.words else None,
        )


def _library() -> Any:
    try:
        return importlib.import_module("faster_whisper")
    except ImportError as error:
        raise EngineMissing(
            f"the speech engine faster-whisper is not installed here ({error}): {INSTALL}, "
            "or set engines.whisper.engine to transformers"
        ) from None


def _name(model: str) -> str:
    """What the library calls a model: a folder of its own format, or a size. Raises ValueError for other folders."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model.bin").is_file():
            raise ValueError(f"{folder} is no CTranslate2 model: convert it with ct2-transformers-converter")
        return str(folder)
    return model.removeprefix("openai/whisper-")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"

"""A Whisper model of transformers that stays loaded: recordings in, transcripts out, many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from ..devices import describe
from ..halving import in_halves
from ..model_pins import own_code
from ..models import resolve, revision
from .network import Network, encoding_once
from .speech import SAMPLE_RATE, Samples, Segment, SpeechFacts, Transcript, Wish, WishRefused, Word, nothing, untold
from .stretches import Stretch, cut
from .words import words_of

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_BATCH = {"cpu": 8, "cuda": 24}
"""Pieces that are heard at once."""
MEMORY_SHARE = 0.4
"""Of the GPU memory that is free, for the keys and values of a batch."""
MIN_SECONDS = 0.1
"""A shorter recording is filled up with silence: the times of words need some frames."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one of the recordings."""

    clip: int
    """Index of the recording."""
    stretch: Stretch


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in a piece; times from the beginning of the recording."""

    text: str
    segments: tuple[Segment, ...]
    words: tuple[Word, ...]


class WhisperModel:
    """Any Whisper checkpoint, a local folder or an id of the hub, weights from safetensors only (a `SpeechModel`).

    fp16 on a GPU, fp32 on a CPU unless told otherwise. A recording that fits the window gives exactly what
    transformers' `generate` with timestamps gives; a longer one is cut in its pauses (see stretches.py), and a piece
    without a pause is heard in transformers' own sequential way.
    """

    def __init__(self, model: str, *, dtype: str = "auto", device: str = "auto", batch: int | None = None) -> None:
        """`dtype`: auto or one of DTYPES. `device`: auto, cpu, cuda or cuda:n. `batch`: pieces at once, else by memory.

        Raises ModelNotFound, or ValueError for what is no Whisper model or an option that isn't one of these.
        """
        if dtype not in ("auto", *DTYPES):
            raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, not {dtype!r}")
        folder = resolve(model)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._device = torch.device(device if device != "auto" else "cuda:0" if torch.cuda.is_available() else "cpu")
        self._dtype = DTYPES[dtype if dtype != "auto" else "float16" if self._device.type == "cuda" else "float32"]
        with own_code(model, folder) as trusted:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        if not isinstance(config, transformers.WhisperConfig):
            raise ValueError(f"{model} is a model of the kind {config.model_type!r}, not a Whisper one")
        loaded = Network.from_pretrained(
            folder, config=config, dtype=self._dtype, use_safetensors=True, local_files_only=True
        )
        self._model = loaded.to(self._device).eval()
        self._tokenizer = transformers.WhisperTokenizer.from_pretrained(folder, local_files_only=True)
        self._features = transformers.WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        self._lock = threading.Lock()
        self._batch = batch or self._fitting_batch(config)
        generation = self._model.generation_config
        self._languages = _languages(generation)
        self._first_time = int(getattr(generation, "no_timestamps_token_id", 0)) + 1
        self.facts = SpeechFacts(
            model=model,
            revision=revision(folder),
            engine="transformers",
            dtype=str(self._dtype).removeprefix("torch."),
            device=describe(self._device),
            window=self._features.n_samples / SAMPLE_RATE,
            languages=self._languages or ("en",),
            versions={name: version(name) for name in ("torch", "transformers")},
        )

    def transcribe(
        self,
        clips: Sequence[Samples],
        wish: Wish,
        *,
        check: Callable[[], None] = nothing,
        told: Callable[[int, int], None] = untold,
    ) -> list[Transcript]:
        """See `SpeechModel.transcribe`."""
        given = self._language(wish)
        self._check(wish)
        window = self._features.n_samples
        pieces = [Piece(index, part) for index, clip in enumerate(clips) for part in cut(clip, SAMPLE_RATE, window)]
        languages = dict.fromkeys(range(len(clips)), given) if given else self._first_heard(clips, check)
        heard: dict[Piece, Heard] = {}
        done, total = 0, sum(map(len, clips))
        for batch in self._batches(pieces, alone=wish.temperature > 0):
            check()
            heard |= zip(batch, self._hear(batch, clips, languages, wish, check), strict=True)
            done += sum(piece.stretch.length for piece in batch)
            told(done // SAMPLE_RATE, total // SAMPLE_RATE)
        return [
            _joined([heard[piece] for piece in pieces if piece.clip == index], languages[index], len(clip), wish)
            for index, clip in enumerate(clips)
        ]

    def _batches(self, pieces: Sequence[Piece], *, alone: bool) -> Iterator[list[Piece]]:
        """Longest first: what fits the window together, and what doesn't. A draw of lots must not depend on others."""
        order = sorted(pieces, key=lambda piece: -piece.stretch.length)
        long = [piece for piece in order if piece.stretch.length > self._features.n_samples]
        size = 1 if alone else self._batch
        for some in (long, order[len(long) :]):
            yield from (some[start : start + size] for start in range(0, len(some), size))

    def _hear(
        self,
        batch: list[Piece],
        clips: Sequence[Samples],
        languages: dict[int, str],
        wish: Wish,
        check: Callable[[], None],
    ) -> list[Heard]:
        """One batch; in halves where it is too large for the GPU."""

        def run(some: Sequence[Piece]) -> list[Heard]:
            output = self._generate(some, clips, languages, wish, check)
            return [
                self._read(segments, ids, piece.stretch, languages[piece.clip], wish)
                for segments, ids, piece in zip(output["segments"], output["sequences"], some, strict=True)
            ]

        return in_halves(batch, run, self._fits)

    def _fits(self, batch: int) -> None:
        self._batch = batch

    def _generate(
        self,
        batch: Sequence[Piece],
        clips: Sequence[Samples],
        languages: dict[int, str],
        wish: Wish,
        check: Callable[[], None],
    ) -> dict[str, Any]:
        """What transformers hears. Adds to `languages` those of recordings that are heard here for the first time."""
        sounds = [clips[piece.clip][piece.stretch.start : piece.stretch.stop] for piece in batch]
        options: dict[str, Any] = {"return_timestamps": True, "return_segments": True}
        if wish.words:
            options["return_token_timestamps"] = True
        if wish.temperature > 0:
            options["temperature"] = wish.temperature
        if wish.prompt:
            options["prompt_ids"] = self._prompt(wish.prompt)
        stop = transformers.StoppingCriteriaList([_Check(check)])
        once = encoding_once(self._model)
        with self._lock, torch.inference_mode(), self._as_it_was(), _seeded(wish, self._device), once:
            inputs = self._inputs(sounds)
            if any(piece.clip not in languages for piece in batch):
                for piece, language in zip(batch, self._spoken(inputs["input_features"]), strict=True):
                    languages.setdefault(piece.clip, language)
            if self._languages:
                options |= {"language": [languages[piece.clip] for piece in batch], "task": wish.task}
            found: dict[str, Any] = self._model.generate(**inputs, **options, stopping_criteria=stop)
        return found

    def _inputs(self, sounds: Sequence[Samples]) -> dict[str, torch.Tensor]:
        """Mel spectrograms (B, M, T) and masks (B, T), as transformers documents it for short and long recordings."""
        shortest = round(MIN_SECONDS * SAMPLE_RATE)
        filled = [np.pad(one, (0, max(0, shortest - len(one)))) for one in sounds]
        if max(map(len, sounds)) <= self._features.n_samples:
            features, mask = self._mel(filled)
        else:  # each by itself: in a common one, what fills a shorter one up would be heard at its end
            several = [self._mel([one], truncation=False, padding="longest") for one in filled]
            features = pad_sequence([one[0].T for one, _ in several], batch_first=True).transpose(1, 2)
            mask = pad_sequence([one[0] for _, one in several], batch_first=True)
        return {
            "input_features": features.to(self._device, self._dtype),
            "attention_mask": mask.to(self._device),
        }

    def _mel(self, sounds: Sequence[Samples], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._features(
            sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **options
        )
        return found["input_features"], found["attention_mask"]

    def _read(self, found: Sequence[Any], ids: torch.Tensor, stretch: Stretch, language: str, wish: Wish) -> Heard:
        """What `generate` says of a stretch, in our words. Nothing lasts longer than the stretch itself."""
        offset, end = stretch.start / SAMPLE_RATE, stretch.stop / SAMPLE_RATE
        segments, words = [], []
        for one in found:
            tokens = one["tokens"].tolist()
            said = [place for place, token in enumerate(tokens) if token < self._end]
            text = self._tokenizer.decode([tokens[place] for place in said])
            if not text.strip():
                continue
            start, stop = (min(round(offset + float(one[side]), 3), end) for side in ("start", "end"))
            segments.append(Segment(start, max(start, stop), text.strip(), tuple(tokens[place] for place in said)))
            if wish.words:
                words += self._words(one, said, offset, end, language)
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Heard(text, tuple(segments), tuple(words))

    def _words(self, segment: Any, said: Sequence[int], offset: float, end: float, language: str) -> list[Word]:
        """The words of a segment. A token's time is its end, and so the start of the next one."""
        ends = segment["result"]["token_timestamps"]
        first = segment["idxs"][0]
        offset += float(segment["token_timestamps"][0] - ends[first])

        def at(place: int) -> float:
            return min(round(offset + float(ends[place]), 3), end)

        tokens = segment["tokens"].tolist()
        return words_of(
            self._tokenizer,
            [tokens[place] for place in said],
            [at(first + place - 1) for place in said],
            [at(first + place) for place in said],
            language,
        )

    @property
    def _end(self) -> int:
        """The first token that is no text; special tokens and times follow it."""
        return int(self._tokenizer.eos_token_id)

    def _first_heard(self, clips: Sequence[Samples], check: Callable[[], None]) -> dict[int, str]:
        """The languages of recordings of several pieces, by their first windows. Those of others are detected when they
        are heard, by what is encoded then anyway.
        """
        if not self._languages:
            return dict.fromkeys(range(len(clips)), "en")
        window = self._features.n_samples
        long = [index for index, clip in enumerate(clips) if len(clip) > window]
        found: dict[int, str] = {}
        for start in range(0, len(long), self._batch):
            check()
            some = long[start : start + self._batch]
            with self._lock, torch.inference_mode():
                features = self._inputs([clips[index][:window] for index in some])["input_features"]
                found |= zip(some, self._spoken(features), strict=True)
        return found

    def _spoken(self, features: torch.Tensor) -> list[str]:
        """Codes of the languages in windows of sound, (B, M, T)."""
        ids = self._model.detect_language(features, num_segment_frames=features.shape[-1])
        return [name.strip("<|>") for name in self._tokenizer.convert_ids_to_tokens(ids.tolist())]

    def _language(self, wish: Wish) -> str | None:
        """The code of the language that is wished for. Raises WishRefused when the model doesn't know it."""
        if wish.language is None:
            return None
        name = wish.language.lower()
        code: str = TO_LANGUAGE_CODE.get(name, name)
        if code not in self.facts.languages:
            known = ", ".join(self.facts.languages[:100])
            raise WishRefused(f"language {wish.language[:40]!r} is not one that this model knows: {known}")
        return code

    def _check(self, wish: Wish) -> None:
        """Raise WishRefused for what this model can't do."""
        if wish.task == "translate" and not self._languages:
            raise WishRefused(f"{self.facts.model} knows English only: it can't translate")
        if wish.words and not getattr(self._model.generation_config, "alignment_heads", None):
            raise WishRefused(f"{self.facts.model} has no alignment_heads in its generation config: no times of words")
        if wish.prompt:
            self._prompt(wish.prompt)

    def _prompt(self, text: str) -> torch.Tensor:
        """The token that begins a prompt, and the end of the prompt. Raises WishRefused for special tokens in it."""
        try:
            ids = self._tokenizer.get_prompt_ids(text, return_tensors="pt").to(self._device)
        except ValueError as error:
            raise WishRefused(f"the prompt can't be read: {error}") from None
        most = self._model.config.max_target_positions // 2 - 1
        return torch.cat([ids[:1], ids[1:][-most + 1 :]])

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """`generate` with times of tokens switches the model's attention for good: put it back, for equal results."""
        config = self._model.model.config
        before = config._attn_implementation
        try:
            yield
        finally:
            config._attn_implementation = before

    def _fitting_batch(self, config: Any) -> int:
        """How many pieces at once: what their keys and values leave room for."""
        most = MAX_BATCH[self._device.type]
        if self._device.type != "cuda":
            return most
        positions = config.max_source_positions + config.max_target_positions
        each = 2 * config.decoder_layers * config.d_model * positions * self._dtype.itemsize
        free, _ = torch.cuda.mem_get_info(self._device)
        return max(1, min(most, int(MEMORY_SHARE * free / (2 * each))))


class _Check(transformers.StoppingCriteria):  # type: ignore[misc]
    """Asks after each token whether to go on: `check` raises if not."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._ask = check

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._ask()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _seeded(wish: Wish, device: torch.device) -> Iterator[None]:
    """Random numbers that follow from the seed, and leave everybody else's alone."""
    if wish.temperature <= 0:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(wish.seed)
        yield


def _joined(heard: Sequence[Heard], language: str, samples: int, wish: Wish) -> Transcript:
    return Transcript(
        text="".join(one.text for one in heard).strip(),
        language=language,
        duration=round(samples / SAMPLE_RATE, 3),
        segments=tuple(segment for one in heard for segment in one.segments),
        words=tuple(word for one in heard for word in one.words) if wish.words else None,
    )


def _languages(generation: Any) -> tuple[str, ...]:
    """Codes of the languages of a model; empty: English only."""
    if not getattr(generation, "is_multilingual", True):
        return ()
    codes = [token.strip("<|>") for token in getattr(generation, "lang_to_id", None) or {}]
    return tuple(sorted(code for code in codes if code in LANGUAGES))

"""A vision-language model of transformers that stays loaded: pictures and questions in, answers out, many at once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from ..devices import chosen_device, describe, half_of, named_dtype, seeded
from ..halving import in_halves
from ..model_pins import own_code
from ..models import resolve, revision
from .look import Answer, Check, Look, NotAnswered, Pixels, Told, Turn, VisionFacts, Wish, nothing, untold

MAX_BATCH = {"cpu": 4, "cuda": 16}
"""Answers that are written at once."""
_PLAIN = {"user": "USER: ", "assistant": "ASSISTANT: ", "system": ""}
"""How LLaVA 1.5 was trained to read a conversation: for checkpoints without a chat template."""
Outcome = Answer | NotAnswered


@dataclass(frozen=True, slots=True)
class Ready:
    """A look, as the processor takes it."""

    place: int
    """In its call."""
    text: str
    """By the model's chat template."""
    images: tuple[Pixels, ...]
    wish: Wish


class VisionModel:
    """Any model that transformers loads as image-text-to-text (LLaVA, LLaVA-NeXT, Qwen2-VL, InternVL …).

    A local folder or an id of the hub, weights from safetensors only, no code of the checkpoint's. bf16 (fp16 where the
    GPU has none) on a GPU, fp32 on a CPU unless told otherwise. Answers without a temperature are written in batches,
    each what `generate` of transformers gives alone; one with a temperature is written by itself, so that its lots
    don't depend on others. Thread-safe; one batch computes at a time.
    """

    def __init__(self, model: str, *, dtype: str = "auto", device: str = "auto", batch: int | None = None) -> None:
        """`batch`: answers at once. Raises ModelNotFound, or ValueError for what sees no pictures."""
        folder = resolve(model)
        self._device = chosen_device(device)
        self._dtype = named_dtype(dtype, half_of(self._device))
        self._processor, loaded = _loaded(model, folder, self._dtype)
        self._model = loaded.to(self._device).eval()
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"  # so that all answers of a batch begin at one place
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._batch = batch or MAX_BATCH[self._device.type]
        self._lock = threading.Lock()
        config = self._model.config
        self._ends = _ends(self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        self.facts = VisionFacts(
            model=model,
            revision=revision(folder),
            kind=str(config.model_type),
            dtype=str(self._dtype).removeprefix("torch."),
            device=describe(self._device),
            context=int(getattr(config.get_text_config(), "max_position_embeddings", None) or 4096),
            versions={name: version(name) for name in ("torch", "transformers")},
        )

    def answer(
        self,
        looks: Sequence[Look],
        pixels: Sequence[Sequence[Pixels]],
        *,
        check: Check = nothing,
        told: Told = untold,
    ) -> list[Outcome]:
        """An answer to each look, in order, or why there is none. `pixels`: the pictures of each look, decoded."""
        found: dict[int, Outcome] = {}
        ready: list[Ready] = []
        for place, (look, images) in enumerate(zip(looks, pixels, strict=True)):
            text = self._written(look, len(images))
            if isinstance(text, NotAnswered):
                found[place] = text
            else:
                ready.append(Ready(place, text, tuple(images), look.wish))
        for batch in self._batches(ready):
            check()
            found |= zip((one.place for one in batch), self._answered(batch, check, told), strict=True)
        return [found[place] for place in range(len(looks))]

    def _batches(self, ready: Sequence[Ready]) -> Iterator[list[Ready]]:
        """Those that can be written together, of like length; who draws lots does it alone."""
        groups: dict[tuple[Any, ...], list[Ready]] = {}
        for one in ready:
            if one.wish.temperature > 0:
                yield [one]
            else:
                groups.setdefault((bool(one.images), one.wish.stop), []).append(one)
        for group in groups.values():
            group.sort(key=lambda one: (-one.wish.max_tokens, -len(one.text)))
            yield from (group[start : start + self._batch] for start in range(0, len(group), self._batch))

    def _answered(self, batch: list[Ready], check: Check, told: Told) -> list[Outcome]:
        """One batch; in halves where it is too large for the GPU."""
        return in_halves(batch, lambda some: self._generated(some, check, told), self._fits)

    def _fits(self, batch: int) -> None:
        self._batch = batch

    def _generated(self, batch: Sequence[Ready], check: Check, told: Told) -> list[Outcome]:
        images = [image for one in batch for image in one.images]
        inputs = self._processor(
            text=[one.text for one in batch], images=images or None, padding=True, return_tensors="pt"
        )
        width = int(inputs["input_ids"].shape[1])
        room = self.facts.context - width
        if room < 1:
            if len(batch) > 1:  # the longest of them is too long, and says so by itself
                return [outcome for one in batch for outcome in self._generated([one], check, told)]
            return [NotAnswered(f"the conversation has {width} tokens, the model reads {self.facts.context}")]
        wish = batch[0].wish
        limit = min(room, max(one.wish.max_tokens for one in batch))
        options: dict[str, Any] = {"max_new_tokens": limit, "do_sample": wish.temperature > 0}
        if wish.temperature > 0:
            options |= {"temperature": wish.temperature, "top_p": wish.top_p, "top_k": 0}
        if wish.stop:
            options |= {"stop_strings": list(wish.stop), "tokenizer": self._tokenizer}
        watch = transformers.StoppingCriteriaList([_Watch(check, told, width, limit)])
        lots = seeded(wish.seed, self._device) if wish.temperature > 0 else nullcontext()
        with self._lock, torch.inference_mode(), lots, _quiet():
            ids = self._model.generate(**inputs.to(self._device, self._dtype), **options, stopping_criteria=watch)
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        found = [self._read(row[width:].tolist(), one.wish, n) for row, one, n in zip(ids, batch, prompts, strict=True)]
        most = max((one.completion_tokens for one in found), default=0)
        told(most, most)
        return list(found)

    def _read(self, ids: list[int], wish: Wish, prompt: int) -> Answer:
        """The answer of one row: up to its end, its limit, or the first of its stops."""
        ended = next((at for at, token in enumerate(ids) if token in self._ends), None)
        kept = ids[: wish.max_tokens if ended is None else min(ended, wish.max_tokens)]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        stops = [at for at in (text.find(one) for one in wish.stop) if at >= 0]
        stopped = bool(stops) or (ended is not None and ended < wish.max_tokens)
        count = len(kept) + (1 if ended is not None and ended < wish.max_tokens else 0)
        return Answer(text[: min(stops)] if stops else text, "stop" if stopped else "length", prompt, count)

    def _written(self, look: Look, images: int) -> str | NotAnswered:
        """The conversation as the model reads it."""
        marks = [str(getattr(self._processor, name, None) or "") for name in ("image_token", "video_token")]
        texts = [part for turn in look.turns for part in turn.parts if part is not None]
        if mark := next((mark for mark in marks for text in texts if mark and mark in text), None):
            return NotAnswered(f"the text has {mark!r} in it, by which this model knows pictures: leave it out")
        wanted = sum(part is None for turn in look.turns for part in turn.parts)
        if wanted != images:
            return NotAnswered(f"{images} pictures where the conversation has {wanted}")
        if getattr(self._processor, "chat_template", None) is None:
            return self._by_hand(look.turns)
        messages = [{"role": turn.role, "content": [_part(part) for part in turn.parts]} for turn in look.turns]
        try:
            written: str = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # noqa: BLE001 - a template of the checkpoint's: it may raise anything
            return NotAnswered(f"the model's chat template refuses this conversation: {error}")
        return written

    def _by_hand(self, turns: Sequence[Turn]) -> str:
        mark = f"{self._processor.image_token}\n"
        said = [_PLAIN[turn.role] + "".join(mark if part is None else part for part in turn.parts) for turn in turns]
        return " ".join([*said, "ASSISTANT:"])


def _part(part: str | None) -> dict[str, str]:
    return {"type": "image"} if part is None else {"type": "text", "text": part}


def _loaded(model: str, folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Processor and model. Raises ValueError for a model that sees no pictures."""
    with _quiet(), own_code(model, folder) as trusted:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        own = trusted and "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
        if not own and type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ValueError(f"{model} is a model of the kind {config.model_type!r}, which sees no pictures")
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
        loaded = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=trusted
        )
    return processor, loaded


def _ends(*said: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    return frozenset(
        int(token) for one in said if one is not None for token in (one if isinstance(one, list | tuple) else [one])
    )


class _Watch(transformers.StoppingCriteria):  # type: ignore[misc]
    """Tells after each token how far the answers are, and asks whether to go on: `check` raises if not."""

    def __init__(self, check: Check, told: Told, prompt: int, limit: int) -> None:
        self._check, self._told, self._prompt, self._limit = check, told, prompt, limit

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._told(int(input_ids.shape[1]) - self._prompt, self._limit)
        self._check()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Processors warn of libraries that nobody needs here."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings(action="ignore"):
        yield

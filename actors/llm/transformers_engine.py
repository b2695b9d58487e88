"""The fallback engine: any causal model of transformers, a cache for each sequence, one forward call each and step.

For families that `stage` doesn't know, and as a second opinion on those that it does. Everything but the forward call
is what our own engine uses too. Correct first; `torch_engine` is the fast one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..model_pins import own_code
from ..models import revision
from .answer import NO_CHOICE, Answer
from .codec import Codec
from .engine_face import EngineFacts
from .request import FinishReason
from .sampling import sample
from .threaded import Counts, Loaded, ThreadedEngine, Told

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request that is being computed, or waits for it."""

    answer: Answer
    deadline: float
    """Seconds, of the clock that `step` is given."""
    cache: Any = None
    """transformers' keys and values, None while it waits."""
    pending: list[int] = field(default_factory=list)
    """Tokens that are known and not yet computed."""

    @property
    def id(self) -> str:
        """The request's id."""
        return self.answer.request.id


class TransformersEngine(ThreadedEngine):
    """Serves the model in a folder. See `Engine` for the contract."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str | None = None,
        dtype: str = "float32",
        device: str = "cpu",
        context: int | None = None,
        max_sequences: int = 8,
        queue_limit: int = 64,
        chunk: int = 512,
    ) -> None:
        """`max_sequences` are computed at a time, `queue_limit` more may wait; a prompt is computed `chunk` tokens a
        step, which bounds how long an abort takes. `context`: less than the model's own, if given."""
        super().__init__(model or folder.name, slots=max_sequences, queue_limit=queue_limit)
        self._asked = model or str(folder)
        self._folder, self._dtype, self._device, self._context = folder, dtype, device, context
        self._max_sequences, self._chunk = max_sequences, chunk

    def _load(self) -> Loaded:
        """Raises NoTokenizer, or what transformers raises when it can't load the model."""
        import transformers

        codec = Codec.load(self._folder, self._asked)
        runner = _Runner(self._asked, self._folder, self._dtype, self._device, self._chunk)
        facts = EngineFacts(
            model=self._name,
            revision=revision(self._folder),
            context=min(runner.context, self._context or runner.context),
            vocab_size=runner.vocab_size,
            dtype=self._dtype,
            backend="transformers",
            device=self._device,
            eos_ids=codec.eos_ids,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
        return Loaded(TransformersCore(runner, self._max_sequences), codec, facts)


class _Runner:
    """The model: one forward call for one sequence."""

    def __init__(self, name: str, folder: Path, dtype: str, device: str, chunk: int) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        with own_code(name, folder) as trusted:
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=trusted,
                use_safetensors=True,
            )
        self._model = model.to(device).eval()
        self._device, self._chunk = device, chunk
        text = model.config.get_text_config()
        self.context = int(getattr(text, "max_position_embeddings", None) or 2048)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])

    def begin(self, sequence: _Sequence) -> None:
        """Room for keys and values; everything that is known is to be computed."""
        from transformers import DynamicCache

        request = sequence.answer.request
        sequence.cache = DynamicCache(config=self._model.config)
        sequence.pending = [*request.prompt, *request.known]

    def forward(self, sequence: _Sequence) -> torch.Tensor | None:
        """Computes the next chunk; logits (V,) once all that is known is computed."""
        chunk, sequence.pending = sequence.pending[: self._chunk], sequence.pending[self._chunk :]
        ids = torch.tensor([chunk], device=self._device)
        out = self._model(input_ids=ids, past_key_values=sequence.cache, use_cache=True, logits_to_keep=1)
        return None if sequence.pending else out.logits[0, -1]


class TransformersCore:
    """A `threaded.Core`: those who run, each with its own cache, and those who wait, in order of priority."""

    def __init__(self, runner: _Runner, max_sequences: int) -> None:
        self._runner, self._max_sequences = runner, max_sequences
        self._waiting: list[_Sequence] = []
        self._running: list[_Sequence] = []

    @property
    def has_work(self) -> bool:
        """Somebody runs or waits."""
        return bool(self._waiting or self._running)

    @property
    def lives(self) -> bool:
        """It computes when it is asked: there is work as long as somebody lives."""
        return self.has_work

    def listen(self, news: Callable[[], None], pressing: Callable[[], bool]) -> None:
        """There are no news but by calls, and what was begun is computed to its end."""

    def counts(self) -> Counts:
        """`kv_usage` is the share of the slots: the caches grow as they need."""
        return Counts(len(self._running), len(self._waiting), len(self._running) / self._max_sequences)

    def add(self, answer: Answer, now: float) -> list[Told]:
        """Let it wait; it is over if its known tokens were all it wanted."""
        if answer.finish is not None:
            return [(answer.request.id, answer.end(answer.finish))]
        timeout = answer.request.timeout
        self._waiting.append(_Sequence(answer, math.inf if timeout is None else now + timeout))
        self._waiting.sort(key=lambda sequence: -sequence.answer.request.urgency)  # stable: first come, first served
        return []

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORTED, error: str = "") -> list[Told]:
        """End a request now; nothing happens if it has ended."""
        found = [one for one in (*self._waiting, *self._running) if one.id == request_id]
        return [told for one in found for told in self._finish(one, reason, error or None)]

    def abort_all(self, reason: FinishReason, error: str) -> list[Told]:
        """End whatever lives."""
        return [told for one in (*self._waiting, *self._running) for told in self._finish(one, reason, error)]

    @torch.inference_mode()
    def step(self, now: float) -> list[Told]:
        """End who is late, begin who has room, compute the next chunk or token of everybody who runs."""
        late = [one for one in (*self._waiting, *self._running) if now >= one.deadline]
        told = [event for one in late for event in self._finish(one, FinishReason.TIMEOUT)]
        while self._waiting and len(self._running) < self._max_sequences:
            sequence = self._waiting.pop(0)
            self._runner.begin(sequence)
            self._running.append(sequence)
        ready = [(one, logits) for one in list(self._running) if (logits := self._forward(one, told)) is not None]
        return told + self._choose(ready)

    def _forward(self, sequence: _Sequence, told: list[Told]) -> torch.Tensor | None:
        try:
            return self._runner.forward(sequence)
        except Exception as error:
            logger.exception("request %s failed", sequence.id)
            told += self._finish(sequence, FinishReason.ERROR, f"the model failed: {type(error).__name__}")
            return None

    def _choose(self, ready: list[tuple[_Sequence, torch.Tensor]]) -> list[Told]:
        if not ready:
            return []
        sampled = sample(torch.stack([logits for _, logits in ready]), [one.answer.row() for one, _ in ready])
        told: list[Told] = []
        for index, (sequence, _) in enumerate(ready):
            if index in sampled.failed:
                told += self._finish(sequence, FinishReason.ERROR, NO_CHOICE)
                continue
            answer = sequence.answer
            answer.accept(sampled.ids[index], sampled.logprobs[index])
            sequence.pending = [sampled.ids[index]]
            if (event := answer.take()) is not None:
                told.append((sequence.id, event))
            if answer.finish is not None:
                told += self._finish(sequence, answer.finish)
        return told

    def _finish(self, sequence: _Sequence, reason: FinishReason, error: str | None = None) -> list[Told]:
        (self._waiting if sequence.cache is None else self._running).remove(sequence)
        return [(sequence.id, sequence.answer.end(reason, error=error))]

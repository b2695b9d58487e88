"""The fallback engine: any causal model of transformers, a cache for each sequence, one forward call each and step.

For families that `stage` doesn't know, and as a second opinion on those that it does. Everything but the forward call
is what our own engine uses too: sampling, text, stops, constraints. Correct first; `engine` is the fast one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..models import revision
from .acceptance import check
from .answer import NO_CHOICE, Answer
from .codec import Codec
from .constraint import Constraint, ConstraintCompiler
from .engine_face import Engine, EngineClosed, EngineFacts, EngineLoad, EventStream, QueueFull
from .request import Event, Finished, FinishReason, Request, RequestRefused
from .sampling import sample

log = logging.getLogger(__name__)

Deliver = Callable[[list[tuple[str, Event]]], None]
"""Called by the compute thread after a step with what it gave: (request id, event)."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request in the compute thread."""

    answer: Answer
    deadline: float
    """Of time.monotonic()."""
    cache: Any = None
    """transformers' keys and values, None while it waits."""
    pending: list[int] = field(default_factory=list)
    """Tokens that are known and not yet computed."""
    ended: FinishReason | None = None
    """Why it is to end at the next step, told from outside."""


class TransformersEngine(Engine):
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
        self._folder, self._name = folder, model or folder.name
        self._dtype, self._device, self._wanted_context = dtype, device, context
        self._max_sequences, self._queue_limit, self._chunk = max_sequences, queue_limit, chunk
        self._facts: EngineFacts | None = None
        self._streams: dict[str, EventStream] = {}
        self._closing = False

    # -- life

    async def start(self) -> None:
        """Raises NoTokenizer, or what transformers raises when it can't load the model."""
        if self._facts is not None:
            raise RuntimeError("the engine was started already")
        self._loop = asyncio.get_running_loop()
        self._codec, runner = await asyncio.to_thread(self._load)
        self._constraints = ConstraintCompiler(
            self._codec.backend, self._facts_of(runner).vocab_size, self._codec.eos_ids
        )
        self._compute = _Compute(runner, self._max_sequences, self._send)
        self._compute.thread.start()
        self._facts = self._facts_of(runner)

    async def close(self) -> None:
        if self._facts is None or self._closing:
            return
        self._closing = True
        self._compute.stop("the engine was closed")
        await asyncio.to_thread(self._compute.thread.join)
        await asyncio.sleep(0)  # what the thread sent last is in this loop's queue already

    @property
    def facts(self) -> EngineFacts:
        if self._facts is None:
            raise EngineClosed("the engine was not started")
        return self._facts

    # -- requests

    async def submit(self, request: Request) -> EventStream:
        self._check_open()
        check(request, self.facts)
        if request.id in self._streams:
            raise RequestRefused(f"a request with id {request.id!r} is alive already; ids must be unique")
        if len(self._streams) >= self._max_sequences + self._queue_limit:
            raise QueueFull(f"{self._queue_limit} requests wait already, and no more may; try elsewhere, or later")
        stream = self._streams[request.id] = EventStream(request.id, self.abort)
        accepted = time.monotonic()
        deadline = accepted + (request.timeout if request.timeout is not None else float("inf"))
        try:
            answer = await self._answer(request)
            self._check_open()
            self._compute.add(_Sequence(answer, deadline))
        except BaseException:
            del self._streams[request.id]
            raise
        return stream

    def abort(self, request_id: str) -> None:
        if request_id in self._streams:
            self._compute.abort(request_id)

    def load(self) -> EngineLoad:
        running = min(self._compute.running, len(self._streams))
        return EngineLoad(running, len(self._streams) - running, running / self._max_sequences, self._queue_limit)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._codec.decode(ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        return self._codec.encode_chat(messages, **options)

    # -- inside

    def _load(self) -> tuple[Codec, _Runner]:
        return Codec.load(self._folder), _Runner(self._folder, self._dtype, self._device, self._chunk)

    def _facts_of(self, runner: _Runner) -> EngineFacts:
        import transformers

        own = runner.context
        return EngineFacts(
            model=self._name,
            revision=revision(self._folder),
            context=min(own, self._wanted_context or own),
            vocab_size=runner.vocab_size,
            dtype=self._dtype,
            backend="transformers",
            device=self._device,
            eos_ids=self._codec.eos_ids,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )

    def _check_open(self) -> None:
        if self._facts is None or self._closing:
            raise EngineClosed("the engine is closing" if self._closing else "the engine was not started")
        if self._compute.broken is not None:
            raise EngineClosed(f"the engine has broken: {self._compute.broken}")

    async def _answer(self, request: Request) -> Answer:
        constraint: Constraint | None = None
        if request.sampling.json_schema is not None or request.sampling.regex is not None:
            constraint = await asyncio.to_thread(self._constraints.compile, request.sampling)
        try:
            return Answer(
                request,
                self._codec.backend,
                eos_ids=self._codec.eos_ids,
                context=self.facts.context,
                constraint=constraint,
            )
        except ValueError as error:
            raise RequestRefused(f"the known tokens can't be gone on from: {error}") from error

    def _send(self, events: list[tuple[str, Event]]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            self._streams[request_id].put(event)
            if isinstance(event, Finished):
                del self._streams[request_id]


class _Runner:
    """The model: one forward call for one sequence."""

    def __init__(self, folder: Path, dtype: str, device: str, chunk: int) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False, use_safetensors=True
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


class _Compute:
    """The thread that steps. Others only put requests, aborts and the end into its inbox."""

    def __init__(self, runner: _Runner, max_sequences: int, deliver: Deliver) -> None:
        self._runner, self._max_sequences, self._deliver = runner, max_sequences, deliver
        self._inbox = threading.Condition()
        self._added: list[_Sequence] = []
        self._aborted: set[str] = set()
        self._stopping: str | None = None
        self._over = False
        self._waiting: list[_Sequence] = []
        self._running: list[_Sequence] = []
        self.running = 0
        """Sequences that are being computed; written by the thread alone."""
        self.broken: str | None = None
        """What ended the thread, if it was not `stop`."""
        self.thread = threading.Thread(target=self._run, name="llm-transformers", daemon=True)

    def add(self, sequence: _Sequence) -> None:
        with self._inbox:
            if self._over:
                raise EngineClosed(f"the engine has broken: {self.broken}")
            self._added.append(sequence)
            self._inbox.notify()

    def abort(self, request_id: str) -> None:
        with self._inbox:
            self._aborted.add(request_id)
            self._inbox.notify()

    def stop(self, why: str) -> None:
        with self._inbox:
            self._stopping = why
            self._inbox.notify()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._receive():
                    self._step()
        except Exception as error:
            log.exception("the engine has broken")
            self.broken = f"{type(error).__name__}: {error}"
        self._end_all(self._stopping or f"the engine has broken: {self.broken}")

    def _receive(self) -> bool:
        """Takes what came; waits for it if there is nothing to do. False when it is to stop."""
        with self._inbox:
            while not (self._added or self._aborted or self._running or self._waiting or self._stopping):
                self._inbox.wait()
            self._waiting += self._added
            self._added.clear()
            aborted, self._aborted = self._aborted, set()
            stopping = self._stopping is not None
        for sequence in [*self._waiting, *self._running] if aborted else ():
            if sequence.answer.request.id in aborted:
                sequence.ended = FinishReason.ABORTED
        return not stopping

    def _step(self) -> None:
        events: list[tuple[str, Event]] = []
        self._expire(events)
        self._admit()
        ready = [(s, logits) for s in self._running if (logits := self._forward(s, events)) is not None]
        self._sample(ready, events)
        self._running = [s for s in self._running if s.cache is not None]
        self.running = len(self._running)
        if events:
            self._deliver(events)

    def _expire(self, events: list[tuple[str, Event]]) -> None:
        """Ends what was aborted, is late, or had its whole answer already."""
        now = time.monotonic()
        for sequence in [*self._waiting, *self._running]:
            late = FinishReason.TIMEOUT if now >= sequence.deadline else None
            if (reason := sequence.ended or sequence.answer.finish or late) is not None:
                self._finish(sequence, events, reason)
        self._waiting = [s for s in self._waiting if s.ended is None]
        self._running = [s for s in self._running if s.ended is None]

    def _admit(self) -> None:
        self._waiting.sort(key=lambda s: -s.answer.request.priority)  # stable: first come, first served
        while self._waiting and len(self._running) < self._max_sequences:
            sequence = self._waiting.pop(0)
            self._runner.begin(sequence)
            self._running.append(sequence)

    def _forward(self, sequence: _Sequence, events: list[tuple[str, Event]]) -> torch.Tensor | None:
        try:
            return self._runner.forward(sequence)
        except Exception as error:
            log.exception("request %s failed", sequence.answer.request.id)
            self._finish(sequence, events, FinishReason.ERROR, f"the model failed: {type(error).__name__}: {error}")
            return None

    def _sample(self, ready: list[tuple[_Sequence, torch.Tensor]], events: list[tuple[str, Event]]) -> None:
        if not ready:
            return
        sampled = sample(torch.stack([logits for _, logits in ready]), [s.answer.row() for s, _ in ready])
        for i, (sequence, _) in enumerate(ready):
            if i in sampled.failed:
                self._finish(sequence, events, FinishReason.ERROR, NO_CHOICE)
                continue
            answer = sequence.answer
            answer.accept(sampled.ids[i], sampled.logprobs[i])
            sequence.pending = [sampled.ids[i]]
            if (event := answer.take()) is not None:
                events.append((answer.request.id, event))
            if answer.finish is not None:
                self._finish(sequence, events, answer.finish)

    def _finish(
        self, sequence: _Sequence, events: list[tuple[str, Event]], reason: FinishReason, error: str | None = None
    ) -> None:
        sequence.ended, sequence.cache = reason, None
        events.append((sequence.answer.request.id, sequence.answer.end(reason, error=error)))

    def _end_all(self, why: str) -> None:
        events: list[tuple[str, Event]] = []
        with self._inbox:
            self._over = True
            left = [*self._running, *self._waiting, *self._added]
        for sequence in left:
            if sequence.ended is None:
                self._finish(sequence, events, FinishReason.ERROR, why)
        self.running = 0
        self._deliver(events)

"""vLLM as an engine of ours: its `AsyncLLM` chooses the tokens, everything around them is the same as elsewhere.

What differs from our own engine, for a request with the same seed: the noise, and with it every drawn token. An answer
that a dead replica began goes on by prefilling what is known; noise is keyed by position (vLLM's model runner V2), so
that it goes on as it would have. Where the text has a form (JSON schema, expression) the known tokens are generated
once more, and the request fails if other ones come.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..models import resolve, revision
from .acceptance import admit, check
from .answer import Answer
from .codec import Codec
from .constraint import ConstraintCompiler
from .engine_face import Engine, EngineClosed, EngineFacts, EngineLoad, EventStream
from .request import FinishReason, Request, RequestRefused
from .vllm_client import AsyncLlmClient, Client, Meter, VllmOptions
from .vllm_params import check_limits, finish_reason, has_form, logprob, prompt_fields, sampling_fields

logger = logging.getLogger(__name__)

Launch = Callable[[Path, VllmOptions, Meter], Client]


@dataclass(frozen=True, slots=True)
class _Loaded:
    client: Client
    codec: Codec
    facts: EngineFacts
    constraints: ConstraintCompiler


@dataclass(slots=True, eq=False)
class _Live:
    """A request that was accepted and is not over."""

    answer: Answer
    stream: EventStream
    number: int
    """Makes the id unique for vLLM, also while an aborted one of the same name is being cleaned up there."""
    again: list[int] = field(default_factory=list)
    """Known tokens that vLLM must generate once more before anything is new."""
    cached: int = 0
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None

    @property
    def request(self) -> Request:
        return self.answer.request

    @property
    def id(self) -> str:
        """vLLM's."""
        return f"{self.request.id}/{self.number}"


class VllmEngine(Engine):
    """One model on this machine's GPU, computed by vLLM. See `Engine` for what it promises.

    vLLM starts processes: it can't in a Dask worker that is a daemon itself (`distributed.worker.daemon: false`).
    """

    def __init__(self, model: str, options: VllmOptions | None = None, *, launch: Launch = AsyncLlmClient) -> None:
        """`model`: see `models.resolve`. Nothing is loaded or imported before `start`. `launch` is vLLM."""
        self._model, self._options, self._launch = model, options or VllmOptions(), launch
        self._loaded: _Loaded | None = None
        self._closing = ""
        self._started = False
        self._live: dict[str, _Live] = {}
        self._entering: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        self._meter = Meter()

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> EngineFacts:
        return self._ready.facts

    @property
    def _ready(self) -> _Loaded:
        if self._loaded is None:
            raise EngineClosed(self._closing or f"the engine of {self._model} was not started")
        return self._loaded

    async def start(self) -> None:
        if self._started:
            raise RuntimeError("an engine starts only once")
        self._started = True
        loaded = await asyncio.to_thread(self._load)
        try:
            await loaded.client.ready()
        except BaseException:
            await asyncio.to_thread(loaded.client.shutdown)
            raise
        self._loaded = loaded

    def _load(self) -> _Loaded:
        folder = resolve(self._model)
        codec, identity = Codec.load(folder, self._model), revision(folder)
        client = self._launch(folder, self._options, self._meter)
        facts = EngineFacts(
            model=self._model,
            revision=identity,
            context=client.context,
            vocab_size=client.vocab_size,
            dtype=client.dtype,
            backend="vllm",
            device=self._options.device,
            eos_ids=codec.eos_ids,
            versions=_versions("vllm", "torch", "tokenizers"),
        )
        constraints = ConstraintCompiler(codec.backend, facts.vocab_size, codec.eos_ids)
        return _Loaded(client, codec, facts, constraints)

    async def close(self) -> None:
        self._closing = self._closing or "the engine was closed"
        for live in list(self._live.values()):
            self._end(live, FinishReason.ERROR, self._closing)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            await asyncio.to_thread(loaded.client.shutdown)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def submit(self, request: Request) -> EventStream:
        accepted_at = time.monotonic()
        self._refuse_if_closed()
        admit(request.id, {*self._live, *self._entering}, self._options.max_sequences, self._options.queue_limit)
        check(request, self.facts)
        check_limits(request.sampling, self.facts.eos_ids)
        self._entering.add(request.id)
        try:
            answer = await self._answer(request)
        finally:
            self._entering.discard(request.id)
        self._refuse_if_closed()
        live = _Live(answer, EventStream(request.id, self.abort), next(self._numbers))
        self._begin(live, accepted_at)
        return live.stream

    def _refuse_if_closed(self) -> None:
        if self._loaded is not None and self._loaded.client.broken:
            self._closing = self._closing or "the engine has broken: vLLM's own process has died; its log says more"
        if self._closing:
            raise EngineClosed(self._closing)

    async def _answer(self, request: Request) -> Answer:
        """Refuses here, in words, a form that can't be compiled, which vLLM would say only later."""
        loaded, sampling = self._ready, request.sampling
        if has_form(sampling):
            await asyncio.to_thread(loaded.constraints.compile, sampling)
            request = replace(request, sampling=replace(sampling, ignore_eos=False))
        codec, context = loaded.codec, loaded.facts.context
        return Answer(request, codec.backend, eos_ids=codec.eos_ids, context=context)

    def _begin(self, live: _Live, accepted_at: float) -> None:
        self._live[live.request.id] = live
        if live.answer.finish is not None:  # the known tokens were all it wanted
            self._end(live, live.answer.finish)
            return
        if live.request.timeout is not None:
            left = max(0.0, accepted_at + live.request.timeout - time.monotonic())
            live.timer = asyncio.get_running_loop().call_later(left, self._end, live, FinishReason.TIMEOUT)
        if has_form(live.request.sampling):
            live.again = list(live.request.known)
        live.task = asyncio.create_task(self._serve(live), name=f"vllm {live.id}")
        self._tasks.add(live.task)
        live.task.add_done_callback(self._tasks.discard)

    async def _serve(self, live: _Live) -> None:
        """Read what vLLM generates. Whoever ends the request earlier has cancelled this."""
        client, facts, request = self._ready.client, self.facts, live.request
        sampling = sampling_fields(request, context=facts.context, eos_ids=facts.eos_ids)
        outputs = client.generate(prompt_fields(request), sampling, live.id, priority=request.urgency)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    if self._take(live, output) and not output.finished:
                        return  # closes `outputs`, which aborts what vLLM still computes
            self._end(live, FinishReason.ERROR, "vLLM ended the answer without a reason")
        except asyncio.CancelledError:
            # it may have been cancelled while vLLM was taking it, when its own clean-up knows nothing of it yet
            await client.abort(live.id)
            raise
        except (RequestRefused, EngineClosed) as error:
            self._failed(live, str(error))
        except Exception as error:
            logger.exception("request %s failed", request.id)
            self._failed(live, f"the model failed: {type(error).__name__}")
        finally:
            self._end(live, FinishReason.ERROR, self._closing or "the event loop was closed")

    def _take(self, live: _Live, output: Any) -> bool:
        """Hand on what is new in one `RequestOutput`; True if the answer is over."""
        answer, [told] = live.answer, output.outputs
        live.cached = min(output.num_cached_tokens or 0, len(live.request.prompt))
        for index, token in enumerate(told.token_ids):
            if answer.finish is not None:  # vLLM looks for no stop strings, and may be some tokens ahead
                break
            if live.again:
                if token != live.again.pop(0):
                    self._end(live, FinishReason.ERROR, "the answer can't be gone on with: other tokens came this time")
                    break
                continue
            wanted = live.request.sampling.logprobs
            answer.accept(token, None if wanted is None else logprob(token, told.logprobs[index], wanted))
        if (event := answer.take()) is not None:
            live.stream.put(event)
        if answer.finish is not None:
            self._end(live, answer.finish)
        elif output.finished:
            reason = finish_reason(str(told.finish_reason))
            error = f"vLLM ended the answer: {told.finish_reason}" if reason is FinishReason.ERROR else None
            self._end(live, reason, error)
        return answer.finish is not None

    def _failed(self, live: _Live, error: str) -> None:
        if self._loaded is not None and self._loaded.client.broken:
            self._closing = error = self._closing or f"the engine has broken: {error}"
        self._end(live, FinishReason.ERROR, error)

    def _end(self, live: _Live, reason: FinishReason, error: str | None = None) -> None:
        """The one place where a request ends; it ends once. What computes it is stopped."""
        if self._live.get(live.request.id) is not live:
            return
        del self._live[live.request.id]
        if live.timer is not None:
            live.timer.cancel()
        live.stream.put(live.answer.end(reason, cached_tokens=live.cached, error=error))
        if live.task is not None and live.task is not asyncio.current_task():
            live.task.cancel()

    def abort(self, request_id: str) -> None:
        if (live := self._live.get(request_id)) is not None:
            self._end(live, FinishReason.ABORTED)

    def load(self) -> EngineLoad:
        alive, counts = len(self._live), self._meter.counts
        running = min(counts.running, alive)
        return EngineLoad(running, alive - running, counts.kv_usage if alive else 0.0, self._options.queue_limit)

    # -- words --------------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> tuple[int, ...]:
        return self._ready.codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._ready.codec.decode(ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        return self._ready.codec.encode_chat(messages, **options)


def _versions(*packages: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

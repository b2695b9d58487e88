"""An LLM engine without a model: bytes are its tokens, and what it says is known beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from idlegrid.actors.llm.engine_face import Engine, EngineClosed, EngineFacts, EngineLoad, EventStream, QueueFull
from idlegrid.actors.llm.request import Finished, FinishReason, Request, RequestRefused, TokenLogprob, Tokens
from idlegrid.actors.llm.stopping import StopChecker

EOS = 256
TEXT = "Grüße! One two three."


class ScriptEngine(Engine):
    """Says `script` to whoever asks, a byte a step. A test steers it.

    `gate` closed holds every step, and it closes itself after `pause_after` tokens of an answer; after `fail_after`
    tokens the engine breaks. What contains ``refuse`` is refused.
    """

    def __init__(self, script: str = TEXT, *, context: int = 200, queue_limit: int = 64) -> None:
        self.script, self.queue_limit = script, queue_limit
        self.fail_after: int | None = None
        self.pause_after: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests: list[Request] = []
        self.aborted: list[str] = []
        self.changed = asyncio.Condition()
        self.closed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._facts = EngineFacts(
            model="tests/script", revision="abc", context=context, vocab_size=257, dtype="none", backend="script"
        )

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def submit(self, request: Request) -> EventStream:
        if self.closed:
            raise EngineClosed("the engine is closing")
        if len(self._tasks) >= self.queue_limit:
            raise QueueFull(f"{self.queue_limit} requests wait already")
        if b"refuse" in bytes(request.prompt):
            raise RequestRefused("the engine does not want to")
        self.requests.append(request)
        stream = EventStream(request.id, self.abort)
        self._tasks[request.id] = asyncio.create_task(self._run(request, stream))
        await self._tell()
        return stream

    def abort(self, request_id: str) -> None:
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()
            self.aborted.append(request_id)

    def load(self) -> EngineLoad:
        if self.closed:
            raise EngineClosed("the engine is closing")
        return EngineLoad(len(self._tasks), 0, 0.25, self.queue_limit)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return "<eos>" if list(ids) == [EOS] else bytes(ids).decode(errors="replace")

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        if len({one["role"] for one in messages}) < len(messages) and len(messages) == 2:
            raise RequestRefused("the model's chat template refuses these messages: roles must alternate")
        return self.encode("".join(f"{one['role']}: {one['content']}\n" for one in messages))

    async def _run(self, request: Request, stream: EventStream) -> None:
        sampling, stops = request.sampling, StopChecker(request.sampling.stop)
        said, held, reason = 0, b"", FinishReason.LENGTH
        for token in [*self.script.encode(), EOS]:
            if said == sampling.max_tokens:
                break
            if said == self.pause_after:
                self.gate.clear()
            await self.gate.wait()
            await asyncio.sleep(0)
            if said == self.fail_after:
                stream.put(self._end(request, said, FinishReason.ERROR, error="the model failed"))
                break
            said += 1
            logprobs = ()
            if sampling.logprobs is not None:
                top = tuple((65 + rank, -1.0 - rank) for rank in range(sampling.logprobs))
                logprobs = (TokenLogprob(token, -0.5, top),)
            text = ""
            if token != EOS:
                held += bytes([token])
                try:
                    text, held = held.decode(), b""
                except UnicodeDecodeError:
                    text = ""
            stream.put(Tokens(ids=(token,), text=stops.push(text), logprobs=logprobs))
            if token == EOS or stops.stop is not None:
                reason = FinishReason.STOP
                break
        stream.put(self._end(request, said, reason, text=stops.finish(), stop=stops.stop))
        self._tasks.pop(request.id, None)
        await self._tell()

    def _end(self, request: Request, said: int, reason: FinishReason, **more: Any) -> Finished:
        return Finished(
            reason=reason, prompt_tokens=len(request.prompt), cached_tokens=3, completion_tokens=said, **more
        )

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition) -> None:
        """Wait until something of the engine holds."""
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(condition)

    @property
    def running(self) -> int:
        return len(self._tasks)

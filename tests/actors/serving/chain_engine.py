"""A light engine whose next token depends on all tokens before it, so that a lost or doubled one shows in the rest."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import threading
import time
from pathlib import Path

from idlegrid.actors.llm.engine_face import Engine, EngineClosed, EngineFacts, EngineLoad, EventStream, QueueFull
from idlegrid.actors.llm.request import Finished, FinishReason, Request, RequestRefused, Tokens

VOCAB = 50_000


def next_token(tokens: list[int], seed: int) -> int:
    digest = hashlib.sha256(repr((seed, tokens)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % VOCAB


def answer_to(request: Request) -> list[int]:
    """What an undisturbed run gives."""
    tokens = list(request.prompt)
    for _ in range(request.sampling.max_tokens):
        tokens.append(next_token(tokens, request.sampling.seed))
    return tokens[len(request.prompt) :]


def text_of(tokens: list[int]) -> str:
    return "".join(f"{token} " for token in tokens)


class ChainEngine(Engine):
    """Serves `answer_to`, a token every `pace` seconds; the text of a token comes with the next one."""

    def __init__(
        self, model: str = "chain", *, pace: float = 0.0, queue_limit: int = 1000, poison: int = -1, **_
    ) -> None:
        self.poison = poison
        """A prompt that is this token kills the process."""
        self.model, self.pace, self.queue_limit = model, pace, queue_limit
        self.tasks: dict[str, asyncio.Task] = {}
        self.streams: dict[str, EventStream] = {}
        self.aborted: list[str] = []
        self.broken = ""

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            model=self.model, revision="0", context=10**6, vocab_size=VOCAB, dtype="float32", backend="chain",
            eos_ids=frozenset({1, 2}), versions={"chain": "1"},
        )  # fmt: skip

    async def start(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.broken = self.broken or "closed"
        for request_id in list(self.streams):
            self._end(request_id, FinishReason.ERROR, "the engine was closed")

    async def submit(self, request: Request) -> EventStream:
        if self.broken:
            raise EngineClosed(self.broken)
        if not request.prompt:
            raise RequestRefused("the prompt is empty")
        if len(self.streams) >= self.queue_limit:
            raise QueueFull("the queue is full")
        stream = self.streams[request.id] = EventStream(request.id, self.abort)
        self.tasks[request.id] = asyncio.create_task(self._run(request, stream))
        return stream

    def abort(self, request_id: str) -> None:
        if request_id in self.streams:
            self.aborted.append(request_id)
            self._end(request_id, FinishReason.ABORTED)

    def load(self) -> EngineLoad:
        return EngineLoad(len(self.streams), 0, 0.0, self.queue_limit)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, ids) -> str:
        return text_of(list(ids))

    def encode_chat(self, messages, **options) -> tuple[int, ...]:
        if not messages:
            raise RequestRefused("a conversation needs a message")
        return self.encode("".join(message["content"] for message in messages))

    async def _run(self, request: Request, stream: EventStream) -> None:
        tokens = [*request.prompt, *request.known]
        held = text_of(list(request.known[-1:]))
        for _ in range(request.sampling.max_tokens - len(request.known)):
            await asyncio.sleep(self.pace)
            if request.prompt == (self.poison,):
                os.kill(os.getpid(), signal.SIGKILL)
            token = next_token(tokens, request.sampling.seed)
            tokens.append(token)
            stream.put(Tokens(ids=(token,), text=held))
            held = text_of([token])
        self._end(request.id, FinishReason.LENGTH, text=held, completion_tokens=len(tokens) - len(request.prompt))

    def _end(self, request_id: str, reason: FinishReason, error: str | None = None, **fields: object) -> None:
        stream = self.streams.pop(request_id)
        stream.put(Finished(reason=reason, error=error, **fields))
        task = self.tasks.pop(request_id)
        if task is not asyncio.current_task():
            task.cancel()


def make(spec) -> ChainEngine:
    """For `EngineSpec(engine="chain_engine:make")`. Options: `pace`; `load_seconds`; `fail_on`: the file exists while
    loading fails; `pids`: a folder in which the process says that it made one.
    """
    options = dict(spec.options)
    if (pids := options.get("pids")) is not None:
        (Path(pids) / str(os.getpid())).touch()
    time.sleep(options.get("load_seconds", 0.0))
    if (fail_on := options.get("fail_on")) is not None and Path(fail_on).exists():
        raise RuntimeError("this model can't be loaded here")
    return ChainEngine(spec.model, **options)


def hosts_here() -> int:
    """Hosts that live in this process."""
    return sum(thread.name == "idlegrid-host" for thread in threading.enumerate())

"""What every LLM engine looks like from outside, whatever computes behind it: ours, transformers, vLLM."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Self

from .request import Event, Finished, Request, RequestRefused, Tokens


class QueueFull(RequestRefused):
    """So many requests wait already that another one would only wait for longer. Try elsewhere, or later."""


class EngineClosed(RequestRefused):
    """The engine is not started, is closing, or has broken; the message says which. Try elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an engine serves, and with what. Known once it has started."""

    model: str
    """The name that it is served under."""
    revision: str
    """What identifies the weights, see `models.revision`."""
    context: int
    """Tokens of a sequence at most: prompt and answer."""
    vocab_size: int
    """Columns of the logits; token ids are less."""
    dtype: str
    """float32, bfloat16 or float16."""
    backend: str
    """torch, transformers or vllm."""
    device: str = "cpu"
    eos_ids: frozenset[int] = frozenset()
    """Tokens that end a sequence unless `ignore_eos`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package → version, of those that the tokens may depend on."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is now: what routing and heartbeats look at."""

    running: int
    """Sequences that are being computed."""
    waiting: int
    """Accepted ones that are not."""
    kv_usage: float
    """Share of the memory for keys and values that is held, 0 to 1."""
    queue_limit: int
    """So many may wait; another one gets QueueFull."""


class EventStream(AsyncIterator[Event]):
    """The events of one accepted request, for one reader: Tokens, then exactly one Finished, then the end.

    Tokens that came while the reader was elsewhere are given as one event, so that a slow reader costs no memory and
    gets on. Closing it early aborts the request; use ``async with`` (or `Engine.generate`) so that this happens however
    the reader ends.
    """

    def __init__(self, request_id: str, abort: Callable[[str], None]) -> None:
        """`abort` is called once, in the reader's loop, if the stream is closed before its Finished was read."""
        self.id = request_id
        self._abort = abort
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._tell: Callable[[], None] | None = None
        self._ended = False
        self._closed = False

    def put(self, event: Event) -> None:
        """Engine's side, in the reader's loop. After the Finished, or once the stream is closed, nothing is taken."""
        if self._ended or self._closed:
            return
        self._ended = isinstance(event, Finished)
        last = self._events[-1] if self._events else None
        if isinstance(last, Tokens) and isinstance(event, Tokens):
            self._events[-1] = joined(last, event)
        else:
            self._events.append(event)
        self._arrived.set()
        if self._tell is not None:
            self._tell()

    def listen(self, tell: Callable[[], None]) -> None:
        """For who reads many streams at once: `tell` is called in the reader's loop when there is something to take."""
        self._tell = tell
        if self._events:
            tell()

    def take(self) -> list[Event]:
        """What is there, without waiting: Tokens, Finished, both in this order, or nothing."""
        events = list(self._events)
        self._events.clear()
        return events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended or self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """The same as `close`, for ``aclosing``."""
        self.close()

    def close(self) -> None:
        """Whoever reads gets the end; the request is aborted if it lives."""
        if self._closed:
            return
        self._closed = True
        self._events.clear()
        self._arrived.set()
        if not self._ended:
            self._abort(self.id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def joined(first: Tokens, second: Tokens) -> Tokens:
    """Two events as one."""
    return Tokens(ids=first.ids + second.ids, text=first.text + second.text, logprobs=first.logprobs + second.logprobs)


class Engine(ABC):
    """One model that generates. Its methods belong to the event loop that started it and never block it for long.

    Every request that was accepted ends in exactly one Finished, whatever happens: stop, length, abort, time-out, an
    error of the model, the engine's own end.
    """

    @property
    @abstractmethod
    def facts(self) -> EngineFacts:
        """What is served. Raises EngineClosed before `start`."""

    @abstractmethod
    async def start(self) -> None:
        """Load the weights and begin to compute. Raises what keeps it from that; once only."""

    @abstractmethod
    async def close(self) -> None:
        """Take nothing new, end what lives (ERROR), give everything back. Idempotent."""

    @abstractmethod
    async def submit(self, request: Request) -> EventStream:
        """Accept a request, or raise: RequestRefused (never possible here), QueueFull, EngineClosed."""

    @abstractmethod
    def abort(self, request_id: str) -> None:
        """End a request (ABORTED) within a step. What is over or unknown is ignored."""

    @abstractmethod
    def load(self) -> EngineLoad:
        """How busy it is."""

    @abstractmethod
    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a prompt, with what the tokenizer puts before it (BOS)."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """How tokens read, special ones included: for lists of log-probabilities; streams bring their own text."""

    @abstractmethod
    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        """The tokens of a conversation up to where the assistant's answer begins, by the tokenizer's chat template.

        `options` go to the template. Raises RequestRefused if there is no template, or if it refuses the messages.
        """

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """`submit` and read: refuses at the first iteration; aborts when it is closed or cancelled."""
        async with aclosing(await self.submit(request)) as stream:
            async for event in stream:
                yield event

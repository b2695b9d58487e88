"""An engine whose model computes in a thread of its own: the face, and what passes between loop and thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .acceptance import admit, check
from .answer import Answer
from .codec import Codec
from .constraint import ConstraintCompiler
from .engine_face import Engine, EngineClosed, EngineFacts, EngineLoad, EventStream
from .request import Event, Finished, FinishReason, Request, RequestRefused

logger = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at the clock while others compute."""
Told = tuple[str, Event]
"""A request's id and something that happened to it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a core is doing."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0


class Core(Protocol):
    """What computes. Called from one thread only; every request that `add` accepted gets exactly one Finished."""

    @property
    def has_work(self) -> bool:
        """A call of `step` would do something now."""

    @property
    def lives(self) -> bool:
        """Some time a call of `step` will do something."""

    def listen(self, news: Callable[[], None], pressing: Callable[[], bool]) -> None:
        """`news` is called, from any thread, when there may be work that no call here has made. `pressing` tells
        whether somebody who is not in the background is to be added: a step of the background alone can be given up."""

    def add(self, answer: Answer, now: float) -> list[Told]:
        """Accept a request. Raises RequestRefused."""

    def abort(self, request_id: str, reason: FinishReason = FinishReason.ABORTED, error: str = "") -> list[Told]:
        """End a request now; nothing happens if it has ended."""

    def abort_all(self, reason: FinishReason, error: str) -> list[Told]:
        """End whatever lives."""

    def step(self, now: float) -> list[Told]:
        """Compute one step."""

    def counts(self) -> Counts:
        """What it is doing now."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready."""

    core: Core
    codec: Codec
    facts: EngineFacts


class ThreadedEngine(Engine):
    """Everything of an `Engine` but the model: subclasses load it.

    The event loop puts commands into an inbox; the thread takes them between two steps, computes, and hands what
    happened to the loop, once a step.
    """

    def __init__(self, name: str, *, slots: int, queue_limit: int) -> None:
        """`name` is for messages; `slots` requests are computed at a time at most, `queue_limit` more may wait."""
        self._name, self._slots, self._queue_limit = name, slots, queue_limit
        self._loaded: Loaded | None = None
        self._closing = ""
        self._started = False
        self._streams: dict[str, EventStream] = {}
        self._counts = Counts()
        self._inbox: deque[Callable[[Core], list[Told]]] = deque()
        self._pressing = False
        """Somebody in the inbox is not in the background."""
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    @abstractmethod
    def _load(self) -> Loaded:
        """Read the model. Takes seconds; called once, in a thread."""

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def facts(self) -> EngineFacts:
        return self._ready.facts

    @property
    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise EngineClosed(self._closing or f"the engine of {self._name} was not started")
        return self._loaded

    async def start(self) -> None:
        if self._started:
            raise RuntimeError("an engine starts only once")
        self._started = True
        self._loop = asyncio.get_running_loop()
        loaded = await asyncio.to_thread(self._load)
        self._constraints = ConstraintCompiler(loaded.codec.backend, loaded.facts.vocab_size, loaded.codec.eos_ids)
        self._loaded = loaded
        self._thread.start()

    async def close(self) -> None:
        self._closing = self._closing or "the engine was closed"
        with self._wake:
            self._wake.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
            await asyncio.sleep(0)  # what the thread told last is in the loop's queue already
        self._loaded = None

    # -- requests -----------------------------------------------------------------------------------------------------

    async def submit(self, request: Request) -> EventStream:
        self._refuse(request)
        check(request, self.facts)
        stream = self._streams[request.id] = EventStream(request.id, self.abort)
        accepted_at = time.monotonic()
        try:
            answer = await self._answer(request)
            if self._closing:
                raise EngineClosed(self._closing)
        except BaseException:
            del self._streams[request.id]
            raise
        self._tell(lambda core: _add(core, answer, accepted_at), pressing=not request.background)
        return stream

    def abort(self, request_id: str) -> None:
        if request_id in self._streams:
            self._tell(lambda core: core.abort(request_id))

    def load(self) -> EngineLoad:
        running = min(self._counts.running, len(self._streams))
        return EngineLoad(running, len(self._streams) - running, self._counts.kv_usage, self._queue_limit)

    def encode(self, text: str) -> tuple[int, ...]:
        return self._ready.codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._ready.codec.decode(ids)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> tuple[int, ...]:
        return self._ready.codec.encode_chat(messages, **options)

    def _refuse(self, request: Request) -> None:
        if self._closing:
            raise EngineClosed(self._closing)
        admit(request.id, self._streams, self._slots, self._queue_limit)

    async def _answer(self, request: Request) -> Answer:
        """Off the loop where compiling a grammar may take long."""
        sampling, loaded = request.sampling, self._ready
        compile_it = self._constraints.compile
        slow = sampling.json_schema is not None or sampling.regex is not None
        constraint = await asyncio.to_thread(compile_it, sampling) if slow else compile_it(sampling)
        codec, context = loaded.codec, loaded.facts.context
        try:
            return Answer(request, codec.backend, eos_ids=codec.eos_ids, context=context, constraint=constraint)
        except ValueError as error:
            raise RequestRefused(f"the known tokens can't be gone on from: {error}") from error

    def _tell(self, command: Callable[[Core], list[Told]], *, pressing: bool = False) -> None:
        with self._wake:
            self._inbox.append(command)
            self._pressing |= pressing
            self._wake.notify()

    # -- the computing thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        core = self._ready.core
        core.listen(self._notice, lambda: self._pressing)
        error = "the engine was closed"
        try:
            while self._wait_for_work(core):
                told = self._obey(core)
                told += core.step(time.monotonic())
                self._hand_over(told, core.counts())
        except Exception as broken:
            logger.exception("the engine of %s has broken", self._name)
            error = self._closing = f"the engine has broken: {type(broken).__name__}; its log says more"
        self._hand_over(self._obey(core) + core.abort_all(FinishReason.ERROR, error), Counts())

    def _wait_for_work(self, core: Core) -> bool:
        with self._wake:
            while not (self._inbox or core.has_work or self._closing):
                if not self._wake.wait(TICK if core.lives else None):
                    break  # somebody's time may be over
        return not self._closing

    def _notice(self) -> None:
        with self._wake:
            self._wake.notify()

    def _obey(self, core: Core) -> list[Told]:
        with self._wake:
            commands = list(self._inbox)
            self._inbox.clear()
            self._pressing = False
        return [told for command in commands for told in command(core)]

    def _hand_over(self, told: list[Told], counts: Counts) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, told, counts)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._closing = self._closing or "the event loop was closed"

    def _deliver(self, told: list[Told], counts: Counts) -> None:
        """In the event loop."""
        self._counts = counts
        for request_id, event in told:
            stream = self._streams[request_id]
            if isinstance(event, Finished):
                del self._streams[request_id]
            stream.put(event)


def _add(core: Core, answer: Answer, accepted_at: float) -> list[Told]:
    try:
        return core.add(answer, accepted_at)
    except RequestRefused as error:  # the face had accepted it, so it gets its end
        return [(answer.request.id, answer.end(FinishReason.ERROR, error=str(error)))]

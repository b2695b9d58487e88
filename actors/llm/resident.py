"""LLM engines that stay: one per model and process, on an event loop of their own, for callers in plain threads."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar

from ..resident import Residents, tell_donor
from ..serving.engines import EngineSpec, make_engine
from .completion import Completion, collected
from .engine_face import Engine, EngineClosed, EngineFacts
from .reading import texts
from .request import Request, RequestRefused

T = TypeVar("T")

MAX_RESIDENT = 1
"""Engines that one process keeps: each takes the memory for keys and values that it finds."""
PATIENCE = 20.0
"""Seconds that an engine has to close."""


class EngineThread:
    """An engine that is started, in a thread of its own. Thread-safe; closes itself when nobody holds it any more."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        """Loads the model. Raises what the engine raises at its start."""
        self._loop = asyncio.new_event_loop()
        self._broken = False
        thread = threading.Thread(target=_run, args=(self._loop,), name="idlegrid-engine", daemon=True)
        thread.start()
        try:
            self.engine = self.call(_started(make))
        except BaseException:
            _end(self._loop, thread, None)
            raise
        self._room = asyncio.Semaphore(max(1, self.engine.load().queue_limit))
        self.close = weakref.finalize(self, _end, self._loop, thread, self.engine)
        """Ends the engine and its thread. Idempotent."""

    @property
    def facts(self) -> EngineFacts:
        """What is served."""
        return self.engine.facts

    @property
    def alive(self) -> bool:
        """Whether it takes requests, as far as is known: a broken engine says so when it is asked for something."""
        return bool(self.close.alive) and not self._broken

    def complete(self, request: Request) -> Future[Completion]:
        """The whole answer to a request; cancelling it aborts the request.

        Fails with GenerationFailed, or with what the engine raises: RequestRefused, EngineClosed.
        """
        return self.start(self.answer(request))

    async def answer(self, request: Request, tell: Callable[[str], None] | None = None) -> Completion:
        """The same as `complete`, for who is on the engine's loop already. Waits while there is no room.

        `tell` hears each piece of the text as it comes.
        """
        try:
            async with self._room, aclosing(self.engine.generate(request)) as events:
                return await collected(events, tell)
        except EngineClosed:
            self._broken = True
            raise

    def texts(self, request: Request) -> Generator[str, None, Completion]:
        """The answer in pieces, as they come; see `reading.texts`."""
        return texts(self.engine.generate(request), self._loop)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the engine's loop; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the engine's loop and wait for it. Never from that loop itself."""
        return self.start(work).result()


async def _started(make: Callable[[], Engine]) -> Engine:
    engine = make()
    await engine.start()
    return engine


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread, engine: Engine | None) -> None:
    if engine is not None:
        closing = asyncio.run_coroutine_threadsafe(engine.close(), loop)
        closing.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    else:
        loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(PATIENCE)


def _load(model: str, *, engine: str, dtype: str, device: str) -> EngineThread:
    spec = EngineSpec(model=model, engine=engine, dtype=dtype, device=device)
    return EngineThread(lambda: make_engine(spec))


_engines: Residents[EngineThread] = Residents(
    _load,
    limit=MAX_RESIDENT,
    loaded=lambda model: tell_donor("loaded", model),
    unloaded=lambda model: tell_donor("unloaded", model),
)


def llm_engine(model: str, *, engine: str = "torch", dtype: str = "auto", device: str = "auto") -> EngineThread:
    """The resident engine of this process, loaded at the first call, and again when it broke. See `EngineSpec`."""
    options = {"engine": engine, "dtype": dtype, "device": device}
    found = _engines.get(model, **options)
    if not found.alive:
        _engines.drop(model, found, **options)
        found = _engines.get(model, **options)
    return found


def encoded(
    engine: Engine, messages: Sequence[Mapping[str, str]] | None, prompt: str | None, system: str | None = None
) -> tuple[int, ...]:
    """The tokens of a conversation, or of a prompt: a question where the model knows what that is, else plain text.

    Exactly one of `messages` and `prompt` is given. Raises RequestRefused, also when both are empty.
    """
    first = [{"role": "system", "content": system}] if system is not None else []
    if messages is not None:
        return engine.encode_chat([*first, *messages])
    if not prompt:
        raise RequestRefused("the prompt is empty")
    try:
        return engine.encode_chat([*first, {"role": "user", "content": prompt}])
    except RequestRefused:
        if first:
            raise
        return engine.encode(prompt)

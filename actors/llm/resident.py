"""LLM engines that stay: one per model and process, on an event loop of another thread, for callers in any thread."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from functools import cache, partial
from typing import Any, Self, TypeVar

from ...grid.config import load_settings
from ..resident import Residents, tell_donor
from ..serving.engines import EngineSpec, make_engine
from .completion import Completion, GenerationFailed, collected
from .engine_face import Engine, EngineClosed, EngineFacts, QueueFull
from .reading import texts
from .request import Request, RequestRefused

T = TypeVar("T")

MAX_RESIDENT = 1
"""Engines that one process keeps: each takes the memory for keys and values that it finds."""
ASK_AGAIN = 0.1
"""Seconds after which an engine whose queue was full is asked again."""
PATIENCE = 20.0
"""Seconds that an engine has to close."""


class EngineThread:
    """An engine that is started, on an event loop in another thread. Thread-safe.

    One that it started itself closes when nobody holds it any more; a borrowed one belongs to whoever started it.
    """

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
        self._instead: Callable[[], EngineThread] | None = None
        self.close: weakref.finalize[..., Any] = weakref.finalize(self, _end, self._loop, thread, self.engine)
        """Ends the engine and its thread. Idempotent."""

    @classmethod
    def borrowed(cls, engine: Engine, loop: asyncio.AbstractEventLoop, instead: Callable[[], EngineThread]) -> Self:
        """An engine that somebody else has started on `loop`, and will close: who used it goes on with `instead`."""
        self = cls.__new__(cls)
        self._loop, self._broken, self.engine, self._instead = loop, False, engine, instead
        self._room = asyncio.Semaphore(max(1, engine.load().queue_limit))
        self.close = weakref.finalize(self, int)  # nothing is to be done when nobody holds it any more
        return self

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
            async with self._room:
                return await self._answer(request, tell)
        except (EngineClosed, GenerationFailed) as error:
            self._broken |= isinstance(error, EngineClosed)
            if self._instead is None or tell is not None or self in (lent for _, lent in _lent.values()):
                raise
        # the replica whose engine this was is gone, which is no fault of the request
        return await asyncio.wrap_future((await asyncio.to_thread(self._instead)).complete(request))

    async def _answer(self, request: Request, tell: Callable[[str], None] | None) -> Completion:
        while True:
            try:
                async with aclosing(self.engine.generate(request)) as events:
                    return await collected(events, tell)
            except QueueFull:
                if self._instead is None:
                    raise
                await asyncio.sleep(ASK_AGAIN)  # a replica's clients fill the same queue

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


def _serves(resident: EngineThread, asked: dict[str, str], loaded_with: dict[str, str]) -> bool:
    """What `auto` chose is also what somebody gets who names it; who says `auto` takes what is there."""
    if not resident.alive:
        return False
    try:
        facts = resident.facts
    except EngineClosed:
        return False
    chosen = {"engine": facts.backend, "dtype": facts.dtype, "device": facts.device}
    return all(value in ("auto", loaded_with[name], chosen[name]) for name, value in asked.items())


_engines: Residents[EngineThread] = Residents(
    _load,
    limit=MAX_RESIDENT,
    serves=_serves,
    loaded=lambda model: tell_donor("loaded", model),
    unloaded=lambda model: tell_donor("unloaded", model),
)
_lent: dict[Engine, tuple[EngineSpec, EngineThread]] = {}
"""Engines of this process's replicas, which its tasks use too: a model is not loaded twice."""


def lend(spec: EngineSpec, engine: Engine) -> None:
    """Let tasks of this process use a replica's engine, which was started on the loop that runs now."""
    again = partial(llm_engine, spec.model, engine=spec.engine, dtype=spec.dtype, device=spec.device)
    _lent[engine] = (spec, EngineThread.borrowed(engine, asyncio.get_running_loop(), again))
    _engines.forget(spec.model)


def take_back(engine: Engine) -> None:
    """The replica ends. Who uses its engine at this moment gets EngineClosed when it closes. Idempotent."""
    _lent.pop(engine, None)


def llm_engine(model: str, *, engine: str | None = None, dtype: str = "auto", device: str = "auto") -> EngineThread:
    """The engine of this process for a model: a replica's, if one serves it here, else one that is loaded at the first
    call and stays. One that broke is loaded again.

    See `EngineSpec`; without `engine` it is the donor's (setting ``inference.engine``).
    """
    options = {"engine": engine or _configured_engine(), "dtype": dtype, "device": device}
    for spec, lent in list(_lent.values()):
        if spec.model == model and _serves(lent, options, {name: getattr(spec, name) for name in options}):
            return lent
    found = _engines.get(model, **options)
    if not found.alive:
        _engines.drop(model, found, **options)
        found = _engines.get(model, **options)
    return found


@cache
def _configured_engine() -> str:
    return load_settings().settings.inference.engine


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

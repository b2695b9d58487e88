"""The part of `Grid` that talks with language models: answers as futures, and word by word."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from distributed import Client, Future

from ..actors.llm.completion import Completion
from ..actors.llm.reading import texts
from ..actors.llm.request import Event, Request, Sampling
from ..actors.llm.tasks import Conversation, answer, answer_all
from ..grid import catalogue
from ..grid.jobs import Ask
from ..grid.tenants import of_this_user
from ..pipelines.bulk import BulkReport, chat_parquet
from ..pipelines.llm.deployment import Deployment
from ..pipelines.llm.service import LlmService
from .deployed import Deployed

T = TypeVar("T")

LOOK_EVERY = 0.1
"""Seconds between two looks while `deploy` waits."""


class GridLlm:
    """What a `Grid` can do with language models. Its host gives `client`, `_annotated` and `_submit`."""

    client: Client
    _annotated: Callable[..., Any]
    _submit: Callable[..., Future]
    _service: LlmService | None = None

    def __init__(self, cache_salt: str | None = None) -> None:
        self._salt = of_this_user() if cache_salt is None else cache_salt
        self._streams: Counter[str] = Counter()
        """Model → streams of it that are under way."""
        self._unwanted: set[str] = set()
        """Models whose replicas are to end with their last stream."""
        self._kept: set[str] = set()
        """Models that were deployed: they stay until they are undeployed."""

    def chat(self, conversation: Conversation, *, model: str | None = None, **sampling: Any) -> Future:
        """A future of a `Completion`: the answer to a question, or to a list of messages with `role` and `content`.

        `sampling`: see `Sampling`, e.g. ``max_tokens=100, temperature=0, seed=7``. Raises TypeError for another word.
        """
        return self._answer(conversation, model, sampling, raw=False)

    def complete(self, prompt: str, *, model: str | None = None, **sampling: Any) -> Future:
        """A future of a `Completion`: how a text goes on. Options as in `chat`."""
        return self._answer(prompt, model, sampling, raw=True)

    def map_chat(
        self,
        conversations: Iterable[Conversation],
        *,
        model: str | None = None,
        batch_size: int = 64,
        **sampling: Any,
    ) -> list[Future]:
        """Futures of lists of `Completion`, one per `batch_size` conversations, in order; a batch is computed together.

        Each conversation has a seed of its own, which follows from `seed` and its number. For whole datasets use
        `chat_parquet`.
        """
        if isinstance(conversations, str):
            raise TypeError("conversations must be a list; for one question use `chat`")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        name, asked, items = catalogue.canonical(model, "llm"), _sampling(sampling), list(conversations)
        with self._annotated(Ask(type="llm", model=name)):
            return [
                self._submit(
                    answer_all,
                    name,
                    items[first : first + batch_size],
                    asked,
                    first=first,
                    salt=self._salt,
                    name="chat",
                )
                for first in range(0, len(items), batch_size)
            ]

    def chat_parquet(self, source: str, target: str, **options: Any) -> BulkReport:
        """Answer every row of a Parquet dataset into a new dataset; resumes where it was stopped.

        See `idlegrid.pipelines.bulk.chat_parquet` for the options and what is guaranteed.
        """
        self._make_way()
        return chat_parquet(self.client, source, target, **{"cache_salt": self._salt, **options})

    def stream_chat(
        self, conversation: Conversation, *, model: str | None = None, raw: bool = False, **sampling: Any
    ) -> Generator[str, None, Completion]:
        """The answer word by word, as it comes: ``for text in grid.stream_chat("Hello"): print(text, end="")``.

        The first one of a model that is not deployed (`deploy`) places a replica of it on the grid, which stays until
        the grid is closed, or until its place is needed for `chat` and the like. The stream goes on if the replica's
        worker dies. Closing the iterator ends the generation. Its return value is the `Completion`. `raw`: a text to go
        on from. Raises RequestRefused, QueueFull, NoReplica and GenerationFailed.
        """
        name, asked = catalogue.canonical(model, "llm"), _sampling(sampling)
        return texts(self._events(name, conversation, asked, raw), self.client.loop.asyncio_loop)

    def deploy(
        self,
        model: str | None = None,
        *,
        replicas: int = 1,
        stages: int | None = None,
        layers: Sequence[tuple[int, int]] | None = None,
        wait: float | None = 120.0,
        **more: Any,
    ) -> Deployed:
        """Serve a language model for `stream_chat` until it is undeployed or the grid is closed; what is served then.

        `stages`: split each replica over so many workers, 0 over as many as it takes; `layers`: the stages as ranges,
        first layer and the one after the last. `wait`: seconds until it must serve, None: nobody waits. `more`: see
        `Deployment`, e.g. ``dtype="float32", region="oceania"``. Raises ValueError for what can't be wanted, or is
        deployed already, and TimeoutError with the reason.
        """
        name = catalogue.canonical(model, "llm")
        parts = None if layers is None else tuple((first, stop) for first, stop in layers)
        given: dict[str, Any] = {"device": "auto", "gpu_memory_gb": 0.0} | more
        wanted = Deployment(model=name, replicas=replicas, stages=stages, layers=parts, **given)
        return self._on_loop(self._deploy(wanted, wait))

    def undeploy(self, model: str) -> None:
        """Serve a model no more; streams of it end with an error. Raises UnknownModel (of the service)."""
        self._on_loop(self._undeploy(catalogue.canonical(model, "llm")))

    def deployments(self) -> Deployed:
        """The models that `deploy` and `stream_chat` placed: who holds which layers."""
        return self._on_loop(self._deployed())

    def _answer(self, given: Conversation, model: str | None, sampling: Mapping[str, Any], *, raw: bool) -> Future:
        name, asked = catalogue.canonical(model, "llm"), _sampling(sampling)
        with self._annotated(Ask(type="llm", model=name)):
            return self._submit(
                answer, name, given, asked, raw=raw, salt=self._salt, name="complete" if raw else "chat"
            )

    async def _events(
        self, model: str, conversation: Conversation, sampling: Sampling, raw: bool
    ) -> AsyncGenerator[Event, None]:
        """The events of an answer. Belongs to Dask's event loop."""
        service = await self._serving(model)
        self._streams[model] += 1
        try:
            if raw:
                prompt = await service.encode(model, str(conversation))
            else:
                prompt = await service.encode_chat(model, as_messages(conversation))
            request = Request(id=uuid.uuid4().hex, prompt=tuple(prompt), sampling=sampling, salt=self._salt)
            async with aclosing(service.generate(model, request)) as events:
                async for event in events:
                    yield event
        finally:
            self._streams[model] -= 1
            await self._withdraw_unwanted()

    def _on_loop(self, what: Coroutine[Any, Any, T]) -> T:
        """Done on Dask's event loop, to which the service belongs."""
        return asyncio.run_coroutine_threadsafe(what, self.client.loop.asyncio_loop).result()

    async def _opened(self) -> LlmService:
        if self._service is None:
            self._service = LlmService(self.client.scheduler.address)
            await self._service.__aenter__()
        return self._service

    async def _deployed(self) -> Deployed:
        return Deployed(() if self._service is None else await self._service.models())

    async def _deploy(self, wanted: Deployment, wait: float | None) -> Deployed:
        service = await self._opened()
        service.deploy(wanted)
        self._kept.add(wanted.model)
        ends = None if wait is None else time.monotonic() + wait
        while ends is not None and (served := (await self._deployed())[wanted.model]).ready < wanted.replicas:
            if time.monotonic() > ends:
                raise TimeoutError(f"it does not serve after {wait:g} s, and is still tried: {served.why}")
            await asyncio.sleep(LOOK_EVERY)
        return await self._deployed()

    async def _undeploy(self, model: str) -> None:
        self._kept.discard(model)
        await (await self._opened()).withdraw(model)

    async def _serving(self, model: str) -> LlmService:
        """The service, with a replica of this model placed or on its way."""
        service = await self._opened()
        if model not in {served.id for served in await service.models()}:
            service.deploy(Deployment(model=model, device="auto", gpu_memory_gb=0.0))
        self._unwanted.discard(model)
        return service

    def _make_way(self) -> None:
        """A replica that nobody streams from would hold the place of the tasks that come now."""
        if self._service is not None:
            self._unwanted |= set(self._streams) - self._kept
            asyncio.run_coroutine_threadsafe(self._withdraw_unwanted(), self.client.loop.asyncio_loop)

    async def _withdraw_unwanted(self) -> None:
        """End the replicas that stand in the way, but for those that give a stream now."""
        idle = {model for model in self._unwanted if not self._streams[model]}
        self._unwanted -= idle
        for model in idle:
            if self._service is not None:
                await self._service.withdraw(model)

    def _close_llm(self) -> None:
        """End the replicas that streams placed."""
        service, self._service = self._service, None
        if service is not None and self.client.status == "running":
            asyncio.run_coroutine_threadsafe(service.close(), self.client.loop.asyncio_loop).result(30)


def as_messages(conversation: Conversation) -> list[Mapping[str, str]]:
    """A question as messages."""
    return [{"role": "user", "content": conversation}] if isinstance(conversation, str) else list(conversation)


def _sampling(words: Mapping[str, Any]) -> Sampling:
    stop = words.get("stop", ())
    given = {**words, "stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    return Sampling(**({"seed": secrets.randbits(63)} | given))

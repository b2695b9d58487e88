"""Chat with the grid: deployments, their supervisors and routers behind one object. What doors and notebooks use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from distributed import Client
from distributed.security import Security

from ...actors.llm.engine_face import EngineFacts, EngineLoad
from ...actors.llm.request import Event, Request, RequestRefused
from ...actors.serving.channel import Channel
from ...actors.serving.errors import ChannelLost
from ...grid import catalogue
from ...grid.suggest import did_you_mean
from .chain_replica import ChainReplica
from .deployment import Deployment, Held, Phase
from .lack import Lack, Limits
from .link import GridLink
from .model_shape import local_layers
from .reconcile import Patience
from .rolling import Generation, Rolling
from .router import ASK_AGAIN, NoReplica, Router
from .supervisor import AnyReplica, Supervisor
from .tokens import local_codec

if TYPE_CHECKING:
    from ...actors.llm.codec import Codec


class UnknownModel(RequestRefused):
    """Nobody deployed this model here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model that is deployed."""

    id: str
    aliases: tuple[str, ...]
    replicas: int
    """That are wanted."""
    ready: int
    """That serve now."""
    facts: EngineFacts | None
    """None until a replica has been ready once."""
    losses: int
    """How often a stream lost its replica and went on elsewhere."""
    why: str
    """Why fewer serve than are wanted; empty when all do."""
    changing: bool = False
    """Another version is brought up beside the one that serves."""
    coverage: tuple[Held, ...] = ()
    """Who holds which layers now, by replica and layer."""
    num_layers: int | None = None
    """Of the model. None while nobody knows."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a request can be taken now, and if not, why not."""

    ok: bool
    reason: str = ""


@dataclass(slots=True)
class _Model:
    now: Generation
    layers: asyncio.Task[int | None]
    """How many it has, if that can be known in this process."""
    codec: asyncio.Task[Codec | None] | None = None
    """Its tokenizer, if it is to be had in this process; looked for once."""
    facts: EngineFacts | None = None
    changes: list[Rolling] = field(default_factory=list)
    """To other versions, the last one last; those before it end."""

    @property
    def supervisor(self) -> Supervisor:
        return self.now.supervisor

    @property
    def router(self) -> Router:
        return self.now.router

    @property
    def change(self) -> Rolling | None:
        """The change that is not made yet."""
        return self.changes[-1] if self.changes and not self.changes[-1].switched else None

    async def close(self) -> None:
        await asyncio.gather(self.supervisor.close(), *(one.close() for one in self.changes))


class LlmService:
    """Serves deployments from the grid's workers. Enter it before use; belongs to the event loop that enters it.

    A stream outlives the replica that began it: no token is lost or given twice. Several services may run on one grid;
    each keeps replicas of its own.
    """

    def __init__(
        self,
        grid: str | Client,
        deployments: Iterable[Deployment] = (),
        *,
        patience: Patience | None = None,
        wait: float = 60.0,
        limits: Limits | None = None,
        security: Security | None = None,
        must_answer: bool = True,
    ) -> None:
        """`grid`: the scheduler's address, or an asynchronous Dask client of this loop. `wait`: seconds that a request
        waits for a replica, at its beginning and when it lost one; `limits`: while no donors are there that could hold
        the stages of one. `must_answer`: whether it is an error when no scheduler answers at first; else
        nobody waits for it.
        """
        self._must_answer = must_answer
        self._link = GridLink(grid, security=security)
        self._deployments = tuple(deployments)
        self._patience, self._wait, self._limits = patience, wait, limits or Limits()
        self._models: dict[str, _Model] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Connects, and begins to place replicas; does not wait for them. Raises NoScheduler."""
        if self._must_answer:
            await self._link.client()
        for deployment in self._deployments:
            self.deploy(deployment)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all replicas and disconnect. Idempotent."""
        models, self._models = self._models, {}
        await asyncio.gather(*(model.close() for model in models.values()))
        await self._link.close()

    def deploy(self, deployment: Deployment) -> None:
        """Begin to serve one more model. Raises ValueError if it is served already."""
        if deployment.model in self._models:
            raise ValueError(f"{deployment.model} is deployed already; scale it, or withdraw it first")
        made = self._generation(deployment)
        self._models[deployment.model] = _Model(made, _layers(deployment))
        made.supervisor.start()

    def change(self, deployment: Deployment) -> None:
        """Serve a model in another way: the new replicas are brought up first, where donors are there for both, and
        answers under way end where they began. Else it begins anew. Raises UnknownModel."""
        model = self._model(deployment.model)
        if model.change is not None:  # what was not there yet never comes
            ended = asyncio.create_task(model.changes[-1].close())
            self._ending.add(ended)
            ended.add_done_callback(self._ending.discard)
        model.changes = [one for one in model.changes if one.switched and not one.ended]
        if deployment == replace(model.supervisor.deployment, replicas=deployment.replicas):  # back to what serves
            model.supervisor.scale(deployment.replicas)
            return
        after = self._generation(deployment)

        def switch() -> None:
            after.router.losses += model.router.losses
            model.now, model.facts, model.codec, model.layers = after, None, None, _layers(deployment)

        model.changes.append(Rolling(model.now, after, switch))
        model.changes[-1].start()

    def _generation(self, deployment: Deployment) -> Generation:
        supervisor = Supervisor(deployment, self._link, self._patience)
        return Generation(supervisor, Router(supervisor, patience=self._wait, limits=self._limits))

    def scale(self, model: str, replicas: int) -> None:
        """Serve a model by another number of replicas. Raises UnknownModel."""
        served = self._model(model)
        served.supervisor.scale(replicas)
        if served.change is not None:
            served.change.after.supervisor.scale(replicas)

    async def withdraw(self, model: str) -> None:
        """Serve a model no more; its streams end with an error. Raises UnknownModel."""
        served = self._model(model)
        del self._models[served.supervisor.deployment.model]
        await served.close()

    # -- what doors ask -----------------------------------------------------------------------------------------------

    async def models(self) -> Sequence[Served]:
        """What is deployed, in the order in which it was; the first is the default."""
        return [_served(model) for model in self._models.values()]

    async def facts(self, model: str) -> EngineFacts:
        """What the model is. Waits for a replica if none has told yet; raises UnknownModel or NoReplica."""
        known = self._model(model)
        if known.facts is None:
            known.facts = _facts((await self._serving(known)).status.facts or {})
        return known.facts

    async def generate(
        self, model: str, request: Request, *, taken_by: Callable[[str], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Tokens, then exactly one Finished, whatever happens to the replicas. Closing it early aborts the request.

        `taken_by` hears the id of the donor that computes it, again whenever that is another one.

        Raises UnknownModel, RequestRefused, QueueFull or NoReplica before the first event, when nobody accepted it.
        """
        async with aclosing(self._model(model).router.generate(request, taken_by=taken_by)) as events:
            async for event in events:
                yield event

    async def encode(self, model: str, text: str) -> Sequence[int]:
        """The tokens of a prompt, with what the tokenizer puts before it (BOS)."""
        if (codec := await self._codec(model)) is not None:
            return await asyncio.to_thread(codec.encode, text)
        return tuple(await self._ask(model, "encode", text))

    async def encode_chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> Sequence[int]:
        """The tokens of a conversation up to where the assistant's answer begins. Raises RequestRefused."""
        plain = [dict(message) for message in messages]
        if (codec := await self._codec(model)) is not None:
            return await asyncio.to_thread(codec.encode_chat, plain, **options)
        return tuple(await self._ask(model, "encode_chat", plain, options))

    async def decode(self, model: str, ids: Sequence[int]) -> str:
        """How tokens read, special ones included."""
        codec = await self._codec(model)
        return codec.decode(ids) if codec is not None else str(await self._ask(model, "decode", list(ids)))

    async def ready(self, model: str | None = None) -> Readiness:
        """Whether a replica of this model (None: of any) serves now."""
        asked = list(self._models.values()) if model is None else [self._model(model)]
        if any(one.serving is not None for each in asked for one in each.supervisor.replicas()):
            return Readiness(ok=True)
        return Readiness(False, "; ".join(each.supervisor.why() for each in asked) or "no model is deployed")

    async def load(self) -> Mapping[str, EngineLoad]:
        """How busy each model is, its replicas taken together. `kv_usage` is that of the fullest."""
        return {name: _load(model.supervisor.replicas()) for name, model in self._models.items()}

    # -- how ----------------------------------------------------------------------------------------------------------

    def _model(self, name: str) -> _Model:
        found = self._models.get(name)
        if found is None:
            names = {alias: id_ for id_ in self._models for alias in _aliases(id_)}
            if name not in names:
                known = ", ".join(self._models) or "none"
                raise UnknownModel(f"model {name!r} is not deployed; {known} is.{did_you_mean(name, self._models)}")
            found = self._models[names[name]]
        return found

    async def _serving(self, model: _Model) -> Channel:
        """The way to any replica that serves; waits for one. Raises NoReplica."""
        supervisor, loop = model.supervisor, asyncio.get_running_loop()
        since, lack = loop.time(), Lack(model.supervisor, self._limits, fresh=True)
        while (waited := loop.time() - since) < self._wait and not supervisor.closed and not lack.lasts(loop.time()):
            for replica in supervisor.replicas():
                if (channel := replica.serving) is not None:
                    return channel
            await supervisor.changed.wait(min(self._wait - waited, ASK_AGAIN))
        raise NoReplica(f"no replica within {max(1, round(waited))} s: {supervisor.why()}")

    async def _ask(self, name: str, what: str, *args: Any) -> Any:
        model = self._model(name)
        for last in (False, False, True):
            channel = await self._serving(model)
            try:
                return await channel.call(what, *args)
            except (ChannelLost, TimeoutError) as error:
                if last:
                    raise NoReplica(f"three replicas were lost while they were asked to {what}: {error}") from error
        raise AssertionError("unreachable")

    async def _codec(self, name: str) -> Codec | None:
        """The model's tokenizer in this process; None where it can't be had: then a replica is asked."""
        model = self._model(name)
        if model.codec is None:
            source = model.supervisor.deployment.spec().model
            model.codec = asyncio.create_task(asyncio.to_thread(local_codec, source))
        return await asyncio.shield(model.codec)


def _aliases(model: str) -> tuple[str, ...]:
    listed = catalogue.find(model)
    return () if listed is None else (listed.id, *listed.aliases)


def _served(model: _Model) -> Served:
    replicas = model.supervisor.replicas()
    channels = [channel for one in replicas if (channel := one.serving) is not None]
    if model.facts is None and channels and channels[0].status.facts:
        model.facts = _facts(channels[0].status.facts)
    deployment, num_layers = model.supervisor.deployment, _num_layers(model, replicas)
    return Served(
        id=deployment.model,
        aliases=tuple(alias for alias in _aliases(deployment.model) if alias != deployment.model),
        replicas=(model.change.after if model.change else model.now).supervisor.deployment.replicas,
        ready=sum(view.phase is Phase.READY for view in model.supervisor.views()),
        facts=model.facts,
        losses=model.router.losses,
        why="; ".join(filter(None, (model.supervisor.why(), model.change.why if model.change else ""))),
        changing=model.change is not None,
        coverage=(*model.now.held(num_layers), *(model.change.after.held(num_layers) if model.change else ())),
        num_layers=num_layers,
    )


def _layers(deployment: Deployment) -> asyncio.Task[int | None]:
    return asyncio.create_task(asyncio.to_thread(local_layers, deployment.spec().model))


def _num_layers(model: _Model, replicas: Iterable[AnyReplica]) -> int | None:
    told = [one.num_layers for one in replicas if isinstance(one, ChainReplica) and one.num_layers is not None]
    return told[0] if told else model.layers.result() if model.layers.done() else None


def _facts(wire: Mapping[str, Any]) -> EngineFacts:
    return EngineFacts(**{**wire, "eos_ids": frozenset(wire["eos_ids"])})


def _load(replicas: Iterable[AnyReplica]) -> EngineLoad:
    told = [channel.status for one in replicas if (channel := one.serving) is not None]
    return EngineLoad(
        running=sum(status.running for status in told),
        waiting=sum(status.waiting for status in told),
        kv_usage=max((status.kv_usage for status in told), default=0.0),
        queue_limit=sum(status.queue_limit for status in told),
    )

"""The Dask actor of a donor's stage of a model. The one that holds the last layers also leads: the engine is there.

So a chain takes one slot of each of its donors and no other, and tokens are chosen where the sequencer is. While layers
move between donors that stay, an actor holds two stages: the present one, and the one that comes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from distributed.protocol import to_serialize

from ...grid.acceptance import closes_at
from ...grid.layers.speed import Speed
from ..worker_address import client_tls, host_of, listener_tls
from .actor import PLUGIN, HostThread, Placed, leaving
from .host import Host
from .shard_words import LeadSpec, Member, ShardSpec, Standing

if TYPE_CHECKING:  # importing them takes torch, which whoever only names the actor may lack
    from ..shards.actor import StageActor
    from ..shards.stage_host import Seat
    from .leading import Leader


class ShardActor:
    """Made and called through Dask; when Dask drops it, its stages end, and its host if it leads.

    Its methods run on the worker's loop and keep nobody waiting there: one actor that loads would hold up all others.
    """

    def __init__(self, key: str) -> None:
        """Loads nothing. `key`: its own, in Dask."""
        self._key = key
        self._worker = get_worker()
        self._stages: dict[int, StageActor] = {}
        self._loaded = 0
        self._host: HostThread | None = None
        self._leader: Leader | None = None

    async def load(self, spec: ShardSpec) -> Member:
        """Load these layers, beside what is loaded, and listen. Raises what `StageActor.start` does."""
        from ..shards.actor import StageActor, StageSpec

        self._loaded += 1
        number = self._loaded
        stage = StageActor(StageSpec(**{each.name: getattr(spec, each.name) for each in fields(spec)}))
        self._stages[number] = stage
        try:
            started = await asyncio.to_thread(stage.start)
        except BaseException:
            self._stages.pop(number, None)
            raise
        plugin = self._worker.plugins.get(PLUGIN)
        return Member(
            key=self._key,
            stage=number,
            worker=self._worker.contact_address or self._worker.address,
            donor_id="" if plugin is None else plugin.donor.id,
            layers=started.layers,
            door=started.door,
            model=started.model,
            num_layers=started.num_layers,
            bytes_held=started.bytes_loaded + started.bytes_of_pages,
        )

    async def unload(self, number: int) -> None:
        """End one stage; its memory is free then. Idempotent."""
        stage = self._stages.pop(number, None)
        if stage is not None:
            await asyncio.to_thread(stage.stop)

    async def standing(self) -> Standing:
        """How its donor is."""
        plugin = self._worker.plugins.get(PLUGIN)
        now = datetime.now(UTC)
        closes = None if plugin is None else closes_at(plugin.donor.limits, now)
        speed, links = self._speed(), self._links()
        if plugin is not None:  # who plans other models asks the grid, and not us
            if speed is not None:
                plugin.measured(speed)
            for donor_id, seconds in links.items():
                plugin.linked(donor_id, seconds)
        return Standing(
            leaving=leaving(self._worker),
            closes_in=None if closes is None else max(0.0, (closes - now).total_seconds()),
            pid=os.getpid(),
            speed=speed,
            links=links,
        )

    def _speed(self) -> Speed | None:
        """Of the stage that serves: one that comes has computed nothing yet."""
        told = (stage.speed() for stage in list(self._stages.values()))
        return next((speed for speed in told if speed is not None), None)

    def _links(self) -> dict[str, float]:
        told = [stage.next_round_trip() for stage in list(self._stages.values())]
        told.append(None if self._leader is None else self._leader.first_round_trip)
        return {donor_id: seconds for donor_id, seconds in filter(None, told) if donor_id}

    async def sit(self, number: int, seat: Seat) -> None:
        """A stage takes a seat, see `StageHost.join`. Raises RuntimeError when it was unloaded."""
        await asyncio.to_thread(_sit, self._stages, number, seat)

    async def lead(self, spec: LeadSpec, epoch: int, members: Sequence[Member]) -> Placed:
        """Listen for requests, and begin to open the chain; how that goes is told on the channel. `members`: the whole
        chain, whose last stage is here. Who resigned may lead again."""
        if self._host is not None:
            raise RuntimeError("this actor leads a chain already")
        return await asyncio.to_thread(self._lead, spec, epoch, members)

    async def arrange(self, version: int, members: Sequence[Member]) -> None:
        """See `Leader.arrange`."""
        if self._leader is not None:
            await asyncio.wrap_future(self._leader.arrange(version, members))

    async def give_up(self, number: int, why: str) -> None:
        """See `Leader.give_up`."""
        if self._leader is not None:
            await asyncio.wrap_future(self._leader.give_up(number, why))

    async def resign(self) -> None:
        """Lead no more: readers go on elsewhere. The stages stay. Idempotent."""
        host, self._host = self._host, None
        if host is not None:
            await asyncio.to_thread(_end, host)

    async def stop(self) -> None:
        """End all. Idempotent."""
        await self.resign()
        for number in list(self._stages):
            await self.unload(number)

    def _lead(self, spec: LeadSpec, epoch: int, members: Sequence[Member]) -> Placed:
        from .leading import Leader

        worker, hosts = self._worker, list[HostThread]()

        def tell() -> None:  # holds the host, but not this actor: when it is dropped, the host ends
            for each in hosts:
                each.tell_status()

        leader = self._leader = Leader(spec, members, _Seats(worker, self._key, self._stages), tell)
        tls = listener_tls(worker)
        scheme = "tcp" if tls is None else "tls"
        host = Host(
            partial(leader.make, f"{scheme}://{host_of(worker.address)}:0", tls, client_tls(worker)),
            epoch=epoch,
            tls=tls,
            leaving=partial(leaving, worker),
            wants=partial(_wants, leader),
        )
        self._host = HostThread(host, host_of(worker.address))
        hosts.append(self._host)
        self._host.ends_with(self)  # Dask dropped us: whoever wanted us is gone
        plugin = worker.plugins.get(PLUGIN)
        contact = worker.contact_address or worker.address
        return Placed(
            address=replace(self._host.address, host=host_of(contact)),
            donor_id="" if plugin is None else plugin.donor.id,
            worker=contact,
        )


class _Seats:
    """Asks stages to take seats: those here, the others through Dask's own connections between workers."""

    def __init__(self, worker: Any, key: str, here: Mapping[int, StageActor]) -> None:
        self._worker, self._key, self._here = worker, key, here

    async def __call__(self, member: Member, seat: Seat) -> None:
        if member.key == self._key:
            await asyncio.to_thread(_sit, self._here, member.stage, seat)
            return
        asked = asyncio.run_coroutine_threadsafe(self._ask(member, seat), self._worker.loop.asyncio_loop)
        await asyncio.wrap_future(asked)

    async def _ask(self, member: Member, seat: Seat) -> None:
        rpc = self._worker.rpc(member.worker)
        args = [to_serialize(member.stage), to_serialize(seat)]
        answer = await rpc.actor_execute(actor=member.key, function="sit", args=args, kwargs={})
        if answer["status"] != "OK":
            error: BaseException = answer["exception"]
            raise error


def _sit(stages: Mapping[int, StageActor], number: int, seat: Seat) -> None:
    if (stage := stages.get(number)) is None:
        raise RuntimeError("the stage was unloaded")
    stage.join(seat)


def _wants(leader: Leader) -> dict[str, Any] | None:
    wanted = leader.wanted
    return None if wanted is None else wanted.to_wire()


def _end(host: HostThread) -> None:
    host.stop_soon()
    host.join()

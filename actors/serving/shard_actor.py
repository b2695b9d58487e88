"""The Dask actor of one stage of a served model. The one that holds the last layers also leads: the engine is there.

So a chain takes one slot of each of its donors and no other, and tokens are chosen where the sequencer is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from distributed.protocol import to_serialize

from ...grid.acceptance import closes_at
from ..worker_address import client_tls, host_of, listener_tls
from .actor import PLUGIN, HostThread, Placed, leaving
from .host import Host
from .shard_words import LeadSpec, Member, ShardSpec, Standing

if TYPE_CHECKING:  # importing them takes torch, which whoever only names the actor may lack
    from ..shards.actor import StageActor
    from ..shards.stage_host import Seat
    from .leading import Leader


class ShardActor:
    """Made and called through Dask; when Dask drops it, its stage ends, and its host if it leads.

    Its methods run on the worker's loop and keep nobody waiting there: one actor that loads would hold up all others.
    """

    def __init__(self, key: str, spec: ShardSpec) -> None:
        """Loads nothing. `key`: its own, in Dask."""
        from ..shards.actor import StageActor, StageSpec

        self._key = key
        self._worker = get_worker()
        self._stage = StageActor(StageSpec(**{each.name: getattr(spec, each.name) for each in fields(spec)}))
        self._host: HostThread | None = None
        self._leader: Leader | None = None

    async def begin(self) -> Member:
        """Load the layers and listen. Raises what `StageActor.start` does."""
        started = await asyncio.to_thread(self._stage.start)
        plugin = self._worker.plugins.get(PLUGIN)
        return Member(
            key=self._key,
            worker=self._worker.contact_address or self._worker.address,
            donor_id="" if plugin is None else plugin.donor.id,
            layers=started.layers,
            door=started.door,
            model=started.model,
            num_layers=started.num_layers,
            bytes_held=started.bytes_loaded + started.bytes_of_pages,
        )

    async def standing(self) -> Standing:
        """How its donor is."""
        plugin = self._worker.plugins.get(PLUGIN)
        now = datetime.now(UTC)
        closes = None if plugin is None else closes_at(plugin.donor.limits, now)
        return Standing(
            leaving=leaving(self._worker),
            closes_in=None if closes is None else max(0.0, (closes - now).total_seconds()),
            pid=os.getpid(),
        )

    async def sit(self, seat: Seat) -> None:
        """Take a seat, see `StageHost.join`."""
        await asyncio.to_thread(self._stage.join, seat)

    async def lead(self, spec: LeadSpec, epoch: int, members: Sequence[Member]) -> Placed:
        """Listen for requests, and begin to open the chain; how that goes is told on the channel. `members`: the whole
        chain, of which this is the last."""
        if self._host is not None:
            raise RuntimeError("this stage leads a chain already")
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
        """Lead no more: readers go on elsewhere. The stage stays. Idempotent."""
        if self._host is not None:
            await asyncio.to_thread(_end, self._host)

    async def stop(self) -> None:
        """End all. Idempotent."""
        await self.resign()
        await asyncio.to_thread(self._stage.stop)

    def _lead(self, spec: LeadSpec, epoch: int, members: Sequence[Member]) -> Placed:
        from .leading import Leader

        worker, hosts = self._worker, list[HostThread]()

        def tell() -> None:  # holds the host, but not this actor: when it is dropped, the host ends
            for each in hosts:
                each.tell_status()

        leader = self._leader = Leader(spec, members, _Seats(worker, self._key, self._stage), tell)
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
    """Asks stages to take seats: this one here, the others through Dask's own connections between workers."""

    def __init__(self, worker: Any, key: str, here: StageActor) -> None:
        self._worker, self._key, self._here = worker, key, here

    async def __call__(self, member: Member, seat: Seat) -> None:
        if member.key == self._key:
            await asyncio.to_thread(self._here.join, seat)
            return
        asked = asyncio.run_coroutine_threadsafe(self._ask(member, seat), self._worker.loop.asyncio_loop)
        await asyncio.wrap_future(asked)

    async def _ask(self, member: Member, seat: Seat) -> None:
        rpc = self._worker.rpc(member.worker)
        answer = await rpc.actor_execute(actor=member.key, function="sit", args=[to_serialize(seat)], kwargs={})
        if answer["status"] != "OK":
            error: BaseException = answer["exception"]
            raise error


def _wants(leader: Leader) -> dict[str, Any] | None:
    wanted = leader.wanted
    return None if wanted is None else wanted.to_wire()


def _end(host: HostThread) -> None:
    host.stop_soon()
    host.join()

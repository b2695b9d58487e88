"""How long a request waits where nobody serves: shorter while there are no donors that could."""

import asyncio
from dataclasses import dataclass, field

import pytest

from idlegrid.actors.llm.request import Request
from idlegrid.pipelines.llm.notice import Notice
from idlegrid.pipelines.llm.router import Lack, NoReplica, Router


@dataclass
class Nobody:
    """A fleet without replicas."""

    lacking: bool = True
    closed: bool = False
    changed: Notice = field(default_factory=Notice)

    def replicas(self):
        return []

    def why(self):
        return "layers 2-3 of 0-5 have no holder"


async def ask(fleet, **limits):
    async for _ in Router(fleet, **limits).generate(Request(id="r", prompt=(1,))):
        pass


async def test_a_request_ends_soon_while_nobody_could_hold_the_model():
    with pytest.raises(NoReplica, match=r"within 1 s: layers 2-3 of 0-5 have no holder"):
        await asyncio.wait_for(ask(Nobody(), patience=600, lack=0.3), 60)


async def test_control_where_a_replica_is_on_its_way_it_waits():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(Nobody(lacking=False), patience=600, lack=0.1), 0.6)


def test_only_what_lasts_at_a_stretch_counts():
    fleet = Nobody()
    lack = Lack(fleet, 8.0)
    assert not lack.lasts(100.0)
    assert not lack.lasts(107.9)
    fleet.lacking = False  # somebody loads
    assert not lack.lasts(108.0)
    fleet.lacking = True
    assert not lack.lasts(109.0)
    assert not lack.lasts(116.9)
    assert lack.lasts(117.0)

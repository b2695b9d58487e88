"""How long a request waits where nobody serves: shorter while no donors could, and none may come back."""

import asyncio
from dataclasses import dataclass, field

import pytest

from idlegrid.actors.llm.request import Request
from idlegrid.pipelines.llm.lack import Lack, Lacking, Limits
from idlegrid.pipelines.llm.notice import Notice
from idlegrid.pipelines.llm.router import NoReplica, Router

LIMITS = Limits(lack=6.0, back=45.0)
NOBODY = Lacking(since=100.0)
AWAITED = Lacking(since=100.0, awaited=frozenset({"b"}))


@dataclass
class Nobody:
    """A fleet without replicas."""

    lacking: Lacking | None
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
    fleet = Nobody(Lacking(asyncio.get_running_loop().time()))
    with pytest.raises(NoReplica, match=r"within 1 s: layers 2-3 of 0-5 have no holder"):
        await asyncio.wait_for(ask(fleet, patience=600, limits=Limits(lack=0.3)), 60)


async def test_control_where_a_replica_is_on_its_way_it_waits():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(Nobody(None), patience=600, limits=Limits(lack=0.1, back=0.1)), 0.6)


@pytest.mark.parametrize(("lacking", "limit"), [(NOBODY, 6.0), (AWAITED, 45.0)])
def test_an_answer_that_was_begun_waits_from_the_loss_on(lacking, limit):
    """Whoever noticed late has waited already."""
    lack = Lack(Nobody(lacking), LIMITS, fresh=False)
    assert not lack.lasts(100.0 + limit - 0.1)
    assert lack.lasts(100.0 + limit)


def test_who_comes_later_waits_for_a_while_of_its_own():
    lack = Lack(Nobody(AWAITED), LIMITS, fresh=True)
    assert not lack.lasts(143.0)
    assert not lack.lasts(148.9)
    assert lack.lasts(149.0)


def test_only_what_lasts_at_a_stretch_counts():
    fleet = Nobody(NOBODY)
    lack = Lack(fleet, LIMITS, fresh=True)
    assert not lack.lasts(100.0)
    assert not lack.lasts(105.9)
    fleet.lacking = None  # somebody loads
    assert not lack.lasts(106.0)
    fleet.lacking = Lacking(since=107.0)
    assert not lack.lasts(107.0)
    assert not lack.lasts(112.9)
    assert lack.lasts(113.0)


def test_who_may_come_back_is_not_waited_for_shorter_than_others():
    assert Limits(lack=6.0, back=0.0).of(AWAITED) == 6.0

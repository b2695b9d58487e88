"""A chain that loses a stage which nobody is free for: it is cut anew over those that are left, or waits."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace

import pytest
from chain_grid import CALM, MODEL, ChainGrid, split
from serving_helpers import Reader, ready, until
from test_chains import control, drawing, held, undisturbed

from idlegrid.actors.llm.request import FinishReason
from idlegrid.pipelines.llm import chain_replica
from idlegrid.pipelines.llm.deployment import Phase
from idlegrid.pipelines.llm.lack import Limits
from idlegrid.pipelines.llm.service import LlmService

pytestmark = pytest.mark.slow
WIDE = {"num_blocks": 12000}
"""A layer is 0.9 GB of pages that may be written; hardly any of them are."""
FOUR, TWO = "5.3GB", "2.9GB"
"""Memory for so many layers, and the half of another."""


@pytest.fixture(scope="module")
def right():
    return asyncio.run(undisturbed())["drawn"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(chain_replica, "LOOK", 0.2)


@pytest.fixture
def grid():
    """Two donors, who hold three layers each and could hold four; and a small one, who comes later."""
    with ChainGrid() as grid:
        grid.join("a", "b", memory=FOUR)
        yield grid


async def small_one(grid, memory=TWO):
    grid.join("s", memory=memory)
    await grid.whole("a", "b", "s")


@contextlib.contextmanager
def listening(service):
    """What replicas were and said meanwhile, and who held what."""
    told, coverage = set(), set()
    supervisor = service._models[MODEL].supervisor

    async def hear():
        while True:
            for one in supervisor.views():
                told.add((one.epoch, one.phase, one.why))
            for one in supervisor.replicas():
                coverage.update((each.donor_id, each.layers, each.phase) for each in one.held(None))
            await supervisor.changed.wait(1.0)

    task = asyncio.create_task(hear())
    try:
        yield told, coverage
    finally:
        task.cancel()


@pytest.mark.parametrize("victim", [0, 3], ids=["first", "lead"])
async def test_what_a_dead_stage_held_is_taken_by_those_that_are_left_in_another_cut(victim, grid, right):
    """Nobody can take three layers; but who is left can take four, and the small one two."""
    await grid.whole("a", "b")
    async with LlmService(grid.scheduler.address, [split(0, options=WIDE)], patience=CALM) as service:
        [replica] = await ready(service, 1, MODEL)
        before = {layers.start: donor for donor, layers in held(service).items()}
        assert sorted(before) == [0, 3]
        await small_one(grid)
        with listening(service) as (told, _):
            reader = Reader(service, drawing("r"), MODEL)
            await reader.at_least(10)
            grid.kill(before.pop(victim))
            assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == right
        [left] = before.values()
        assert {donor: len(layers) for donor, layers in held(service).items()} == {left: 4, "s": 2}
        assert {epoch for epoch, *_ in told} == {replica.epoch}
        assert any("stops meanwhile: " in why and f"{left} has " in why for *_, why in told), told
    await grid.idle()


async def test_who_comes_back_in_time_goes_on_with_the_answer_and_who_does_not_ends_it(grid, right):
    """The second half is the control: with a wait that is too short."""
    await grid.whole("a", "b")
    async with LlmService(
        grid.scheduler.address, [split(2)], patience=CALM, wait=600, limits=Limits(lack=2, back=600)
    ) as service:
        await ready(service, 1, MODEL)
        victim = next(donor for donor, layers in held(service).items() if layers.start == 0)
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        grid.kill(victim)
        supervisor = service._models[MODEL].supervisor
        await until(lambda: supervisor.lacking is not None and supervisor.lacking.awaited == {victim})
        assert f"{victim}, that held them, may come back" in supervisor.why()
        await asyncio.sleep(2.5)
        assert not reader.done.done()
        grid.join(victim, memory=FOUR)
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == right
        await service.withdraw(MODEL)
        await grid.idle()
    limits = Limits(lack=2, back=2)
    async with LlmService(grid.scheduler.address, [split(2)], patience=CALM, wait=600, limits=limits) as service:
        await ready(service, 1, MODEL)
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        grid.kill(victim)
        end = await reader.ended()
        assert end.reason is FinishReason.ERROR
        assert "of 0-5 have no holder; " in end.error
        assert "GB of free donor memory more would suffice" in end.error
        assert f"{victim}, that held them, may come back" in end.error
        assert right[: len(reader.tokens)] == reader.tokens


async def test_donors_that_stay_load_other_layers_beside_those_that_serve_where_they_have_the_memory(right):
    """The small one can't take all that the one who leaves holds: who stays takes one more, and serves meanwhile."""
    with ChainGrid() as grid:
        grid.join("a", "b", memory="4.2GB")  # for seven layers and a half
        await grid.whole("a", "b")
        narrow = split(2, options={"num_blocks": 6000})
        async with LlmService(grid.scheduler.address, [narrow], patience=CALM) as service:
            [replica] = await ready(service, 1, MODEL)
            before = {layers.start: donor for donor, layers in held(service).items()}
            await small_one(grid, memory="1.7GB")
            with listening(service) as (told, coverage):
                reader = Reader(service, drawing("r"), MODEL)
                await reader.at_least(10)
                await control(grid, before[3], "drain")
                await until(lambda: not grid.running()[before[3]])
                assert (await reader.ended()).reason is FinishReason.LENGTH
            assert reader.tokens == right
            stays = before[0]
            assert {donor: len(layers) for donor, layers in held(service).items()} == {stays: 4, "s": 2}
            assert {(epoch, phase) for epoch, phase, _ in told} == {(replica.epoch, Phase.READY)}
            at_once = {layers: phase for donor, layers, phase in coverage if donor == stays}
            assert len(at_once) == 2, "both were there"
            assert not any("stops" in why for *_, why in told)
            assert sum(grid.running().values()) == 2, "in the same slot"


async def test_a_lead_that_hangs_is_missed_long_before_its_connection_is(grid, right):
    """Nobody behind it could tell. Without its own clock it would be missed after `silence`, ten minutes here."""
    grid.join("c")
    await grid.whole("a", "b", "c")
    patience = replace(CALM, hop=0.5, freeze=2, silence=600)
    async with LlmService(grid.scheduler.address, [split(2)], patience=patience) as service:
        await ready(service, 1, MODEL)
        lead = next(donor for donor, layers in held(service).items() if layers.start == 3)
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        os.kill(grid.processes[lead].pid, signal.SIGSTOP)
        try:
            assert (await reader.ended()).reason is FinishReason.LENGTH
            assert lead not in held(service)
        finally:
            os.kill(grid.processes[lead].pid, signal.SIGCONT)
        assert reader.tokens == right


async def test_a_stage_that_is_lost_while_others_load_beside_the_chain_is_replaced_before_they_have(grid, right):
    """Who takes what the one that leaves holds is stopped: the chain must not wait for it."""
    await grid.whole("a", "b")
    async with LlmService(grid.scheduler.address, [split(2)], patience=CALM) as service:
        [replica] = await ready(service, 1, MODEL)
        before = {layers.start: donor for donor, layers in held(service).items()}
        grid.join("slow", memory=FOUR)
        await grid.whole("a", "b", "slow")
        slow = grid.processes["slow"].pid
        os.kill(slow, signal.SIGSTOP)
        try:
            with listening(service) as (told, coverage):
                reader = Reader(service, drawing("r"), MODEL)
                await reader.at_least(10)
                await control(grid, before[3], "drain")
                await until(lambda: any(donor == "slow" for donor, *_ in coverage))
                grid.join("c", memory=FOUR)
                await until(lambda: "c" in grid.running())
                grid.kill(before[0])
                await until(lambda: held(service).get("c") == range(3))
                assert "slow" not in held(service)
        finally:
            os.kill(slow, signal.SIGCONT)
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == right
        assert {epoch for epoch, *_ in told} == {replica.epoch}
        await until(lambda: held(service) == {"c": range(3), "slow": range(3, 6)})

"""Models in stages, served from real worker processes: the tokens of the whole model, whoever comes, leaves or dies."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from chain_grid import CALM, LAYERS, MODEL, ChainGrid, set_hours, split
from distributed import Client
from serving_helpers import Reader, a_request, ready, until

from idlegrid.actors.llm.request import FinishReason, Sampling
from idlegrid.actors.serving.engines import make_engine, usual_dtype
from idlegrid.pipelines.llm import chain_replica
from idlegrid.pipelines.llm.deployment import Phase
from idlegrid.pipelines.llm.lack import Limits
from idlegrid.pipelines.llm.router import NoReplica
from idlegrid.pipelines.llm.service import LlmService

pytestmark = pytest.mark.slow
PROMPT = tuple(range(20, 50))
LONG = 220


@pytest.fixture(scope="module")
def grid():
    with ChainGrid() as grid, ThreadPoolExecutor(1) as pool:
        joining = pool.submit(grid.join, *"abcd")  # while this process computes what is right
        yield grid
        joining.result()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """A test is shorter than an evening: donors are asked more often how they are."""
    monkeypatch.setattr(chain_replica, "LOOK", 0.1)


@pytest.fixture(scope="module")
def right():
    """The tokens that the whole model gives, in one process and one stage."""
    return asyncio.run(undisturbed())


async def undisturbed():
    import torch

    torch.set_num_threads(1)
    engine = make_engine(split().spec())
    await engine.start()
    try:
        said = {
            request.id: [token async for event in await engine.submit(request) for token in getattr(event, "ids", ())]
            for request in (greedy("greedy"), drawing("drawn"))
        }
    finally:
        await engine.close()
    assert len(said["drawn"]) == LONG
    assert len(set(said["drawn"])) > 40, "who draws from wrong logits is found out"
    return said


def greedy(id_):
    return a_request(id_, prompt=PROMPT, sampling=Sampling(max_tokens=40, temperature=0, ignore_eos=True))


def drawing(id_):
    sampling = Sampling(max_tokens=LONG, temperature=1.5, top_p=0.98, seed=5, ignore_eos=True)
    return a_request(id_, prompt=PROMPT, sampling=sampling)


def held(service):
    """Layers by donor."""
    return {one.donor_id: one.layers for one in service._models[MODEL].supervisor.replicas()[0].held(None)}


async def control(grid, donor, action):
    async with Client(grid.scheduler.address, asynchronous=True) as client:
        await client.scheduler.grid_control(donor=donor, action=action)


async def hours(grid, donor, until_after):
    """Its owner lends it until the end of this hour, UTC; None: always."""
    bounds = {} if until_after is None else {"start": (until_after - 1) % 24, "end": (until_after + 1) % 24}
    address = grid.scheduler.grid.roster.get(donor).ws.address
    async with Client(grid.scheduler.address, asynchronous=True) as client:
        await client.run(set_hours, bounds.get("start"), bounds.get("end"), workers=[address])


def speeds(service):
    """Seconds of a layer, and where they are known from, by donor."""
    parts = service._models[MODEL].supervisor.replicas()[0].held(None)
    return {one.donor_id: (one.layer_seconds, one.speed) for one in parts}


def links(grid, donor):
    """To whom it knows the way."""
    return grid.scheduler.grid.roster.get(donor).report.links.keys()


async def served(service):
    return (await service.models())[0]


async def test_two_and_three_stages_give_the_tokens_of_the_whole_model_and_leave_nothing(grid, right):
    await grid.whole(*"abcd")
    async with LlmService(grid.scheduler.address, patience=CALM) as service:
        for stages in (2, 3):
            service.deploy(split(stages))
            await ready(service, 1, MODEL)
            told = await served(service)
            assert [len(one.layers) for one in told.coverage] == [LAYERS // stages] * stages
            assert [layer for one in told.coverage for layer in one.layers] == list(range(LAYERS))
            assert len({one.donor_id for one in told.coverage}) == stages
            assert {one.phase for one in told.coverage} == {Phase.READY}
            assert (told.num_layers, told.ready, told.why) == (LAYERS, 1, "")
            assert sum(grid.running().values()) == stages
            readers = [Reader(service, greedy(f"{stages}.{number}"), MODEL) for number in range(3)]
            drawn = Reader(service, drawing(f"{stages}"), MODEL)
            for reader in (*readers, drawn):
                assert (await reader.ended()).reason is FinishReason.LENGTH
            assert [reader.tokens for reader in readers] == [right["greedy"]] * 3
            assert drawn.tokens == right["drawn"]
            await service.withdraw(MODEL)
            await grid.idle()


async def test_stages_compute_in_what_a_whole_model_would(grid):
    """Without a dtype, split and whole are equal."""
    await grid.whole(*"abcd")
    async with LlmService(grid.scheduler.address, [replace(split(2), dtype="auto")], patience=CALM) as service:
        await ready(service, 1, MODEL)
        assert (await service.facts(MODEL)).dtype == usual_dtype("cpu")
    await grid.idle()


@pytest.mark.parametrize("layers", [range(2, 4), range(4, 6)], ids=["middle", "lead"])
async def test_a_stage_that_is_killed_in_mid_answer_makes_a_pause_and_nothing_else(layers, grid, right):
    """With the last one, which leads, the sequencer is lost too: its readers go on with the tokens that they have."""
    await grid.whole(*"abcd")
    async with LlmService(grid.scheduler.address, [split(3)], patience=CALM) as service:
        await ready(service, 1, MODEL)
        before = held(service)
        victim = next(donor for donor, its in before.items() if its == layers)
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        grid.kill(victim)
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == right["drawn"]
        after = held(service)
        assert sorted(after.values(), key=lambda its: its.start) == [range(2), range(2, 4), range(4, 6)]
        assert before.keys() - after.keys() == {victim}
        assert len(set(reader.taken_by)) == 1 + (layers.stop == LAYERS)
        assert (await served(service)).losses == (layers.stop == LAYERS)
        grid.join(victim)
    await grid.idle()


async def test_a_stage_that_hangs_is_replaced_while_it_hangs(grid, right):
    """S6: its neighbours miss it, and nobody waits for what it is asked besides."""
    await grid.whole(*"abcd")
    patience = replace(CALM, hop=0.5, silence=600)
    async with LlmService(grid.scheduler.address, [split(3)], patience=patience) as service:
        await ready(service, 1, MODEL)
        victim = next(donor for donor, its in held(service).items() if its.start == 2)
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        os.kill(grid.processes[victim].pid, signal.SIGSTOP)
        try:
            assert (await reader.ended()).reason is FinishReason.LENGTH
            assert victim not in held(service)
        finally:
            os.kill(grid.processes[victim].pid, signal.SIGCONT)
        assert reader.tokens == right["drawn"]
        await service.withdraw(MODEL)
        await grid.idle()


async def test_where_nobody_can_replace_a_stage_its_requests_end_soon_with_the_layers_and_later_ones_go_on(grid, right):
    """S7. A service has a minute for donors that are on their way, and seconds where there are none."""
    await grid.whole(*"abcd")
    async with LlmService(grid.scheduler.address, [split(3)], patience=CALM, wait=600, limits=Limits(1, 1)) as service:
        await ready(service, 1, MODEL)
        [spare] = set("abcd") - held(service).keys()
        await control(grid, spare, "pause")
        victim = next(donor for donor, its in held(service).items() if its.start == 2)
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        grid.kill(victim)
        end = await reader.ended()
        assert end.reason is FinishReason.ERROR
        assert "layers 2-3 of 0-5 have no holder" in end.error
        assert right["drawn"][: len(reader.tokens)] == reader.tokens
        with pytest.raises(NoReplica, match="layers 2-3 of 0-5 have no holder"):
            await Reader(service, drawing("s"), MODEL).ended()
        kept = held(service)
        await control(grid, spare, "resume")
        late = Reader(service, greedy("t"), MODEL)
        await late.ended()
        assert late.tokens == right["greedy"]
        assert held(service) == {**kept, spare: range(2, 4)}, "what was loaded stayed"
        grid.join(victim)
    await grid.idle()


@pytest.mark.parametrize("why", ["it drains", "its window closes", "it drains and leads"])
async def test_a_stage_is_moved_before_its_donor_leaves(why, grid, right):
    """The last one leads: its readers go on at the next lead."""
    await grid.whole(*"abcd")
    patience = replace(CALM, notice=7200.0)
    async with LlmService(grid.scheduler.address, [split(3)], patience=patience) as service:
        await ready(service, 1, MODEL)
        leads = why == "it drains and leads"
        leaver = next(donor for donor, its in held(service).items() if its.start == (4 if leads else 0))
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        if why == "its window closes":
            await hours(grid, leaver, datetime.now(UTC).hour)
        else:
            await control(grid, leaver, "drain")
        try:
            await until(lambda: leaver not in held(service))
            await until(lambda: not grid.running()[leaver])
            assert not reader.done.done(), "it was moved in mid-answer"
            assert (await reader.ended()).reason is FinishReason.LENGTH
            assert reader.tokens == right["drawn"]
            replica = service._models[MODEL].supervisor.replicas()[0]
            assert (replica.moves, len(held(service))) == (1, 3)
            assert (await served(service)).losses == leads
        finally:
            await hours(grid, leaver, None)
            await control(grid, leaver, "resume")
    await grid.idle()


async def test_a_slow_donor_gets_fewer_layers_and_a_faster_one_that_comes_takes_them_in_mid_answer(
    grid, right, monkeypatch
):
    """The slow one really is: each of its layers takes 30 ms more. First a trial finds it out, then its own steps."""
    monkeypatch.setattr(chain_replica, "IMPROVE", 0.2)
    await grid.whole(*"abcd")
    for donor in "bcd":
        await control(grid, donor, "pause")
    grid.join("slow", threads=16, slower=0.03)
    await grid.whole(*"abcd", "slow")
    async with LlmService(grid.scheduler.address, [split(2)], patience=CALM) as service:
        await ready(service, 1, MODEL)
        assert {donor: len(layers) for donor, layers in held(service).items()} == {"a": LAYERS - 1, "slow": 1}
        assert {donor: speed for donor, (_, speed) in speeds(service).items()} == {"a": "probed", "slow": "probed"}
        reader = Reader(service, drawing("r"), MODEL)
        await reader.at_least(10)
        await until(lambda: speeds(service)["slow"][1] == "measured")
        assert speeds(service)["slow"][0] >= 0.03 / 1.5, "with the output head"
        await until(lambda: len(grid.scheduler.grid.roster.get("slow").report.speeds) == 2)
        await until(lambda: {*links(grid, "a"), *links(grid, "slow")} >= {"a", "slow"})
        await control(grid, "b", "resume")
        await until(lambda: held(service).keys() == {"a", "b"})
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == right["drawn"]
        await ready(service, 1, MODEL)
        chain = service._models[MODEL].supervisor.replicas()[0].epoch
        await asyncio.sleep(5 * chain_replica.IMPROVE)
        assert [one.epoch for one in service._models[MODEL].supervisor.replicas()] == [chain], "and no other one"
        await service.withdraw(MODEL)
        await grid.idle()
    grid.kill("slow")
    for donor in "cd":
        await control(grid, donor, "resume")


async def test_what_nobody_can_hold_is_said_with_the_layers_and_the_memory_and_comes_when_it_can(grid):
    await grid.whole(*"abcd")
    async with LlmService(grid.scheduler.address, patience=CALM, wait=1) as service:
        for donor in "ab":
            await control(grid, donor, "pause")
        service.deploy(split(3))
        with pytest.raises(NoReplica, match=r"3 stages are wanted, each on a donor of its own, and 2 may take one now"):
            await Reader(service, drawing("r"), MODEL).done
        await service.withdraw(MODEL)
        service.deploy(split(0, options={"num_blocks": 60000}))  # keys and values of 35 GB
        with pytest.raises(NoReplica, match=r"layers 0-5 of 0-5 have no holder; 26\.\d+ GB of free donor memory more"):
            await Reader(service, drawing("r"), MODEL).done
        await service.withdraw(MODEL)
        service.deploy(split(3))
        for donor in "ab":
            await control(grid, donor, "resume")
        await ready(service, 1, MODEL)
    await grid.idle()


async def test_two_services_on_one_grid_keep_out_of_each_others_way(grid, right):
    async with (
        LlmService(grid.scheduler.address, [split(2)], patience=CALM) as one,
        LlmService(grid.scheduler.address, [split(layers=((0, 5), (5, 6)))], patience=CALM) as two,
    ):
        await asyncio.gather(ready(one, 1, MODEL), ready(two, 1, MODEL))
        assert not set(held(one)) & set(held(two))
        assert sorted(held(two).values(), key=len) == [range(5, 6), range(5)]
        readers = [Reader(service, greedy("r"), MODEL) for service in (one, two)]
        for reader in readers:
            await reader.ended()
            assert reader.tokens == right["greedy"]
        await two.withdraw(MODEL)
        again = Reader(one, greedy("s"), MODEL)
        await again.ended()
        assert again.tokens == right["greedy"]
    await grid.idle()

"""A service on a small grid in this process: placement, refusals, draining, failing, closing."""

import asyncio
import threading
from dataclasses import replace

import pytest
from chain_engine import answer_to, text_of
from serving_helpers import DEADLINE, MODEL, QUICK, Reader, a_request, chain, donors, ready, serving, small_grid, until
from small_cluster import donor

from idlegrid.actors.llm import resident
from idlegrid.actors.llm.engine_face import QueueFull
from idlegrid.actors.llm.request import FinishReason, Request, RequestRefused
from idlegrid.actors.llm.resident import llm_engine
from idlegrid.pipelines.llm import rolling
from idlegrid.pipelines.llm.deployment import Deployment, Phase
from idlegrid.pipelines.llm.router import NoReplica
from idlegrid.pipelines.llm.service import LlmService, UnknownModel

pytestmark = pytest.mark.slow


def llm(id_, **fields):
    return donor(id_, types=("llm",), **fields)


async def test_an_answer_is_the_engines_own_and_the_model_tells_what_it_is():
    async with small_grid(llm("a")) as c, serving(c.client) as service:
        reader = Reader(service, a_request())
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == answer_to(a_request())
        assert reader.text == text_of(reader.tokens)
        [served] = await service.models()
        assert (served.id, served.replicas, served.ready, served.why) == (MODEL, 1, 1, "")
        assert (await service.facts(MODEL)).eos_ids == {1, 2}
        assert (await service.ready(MODEL)).ok
        assert (await service.load())[MODEL].running == 0
        assert reader.taken_by == ["a"]
        assert "chain" in c.scheduler.grid.roster.get("a").load.loaded


async def test_the_tokenizer_is_asked_where_it_is():
    async with small_grid(llm("a")) as c, serving(c.client) as service:
        assert await service.encode(MODEL, "ab") == (97, 98)
        assert await service.encode_chat(MODEL, [{"role": "user", "content": "a"}]) == (97,)
        assert await service.decode(MODEL, [5]) == "5 "
        with pytest.raises(RequestRefused, match="needs a message"):
            await service.encode_chat(MODEL, [])


async def test_each_replica_has_a_donor_of_its_own_and_only_where_the_rules_allow():
    there = [llm("a"), llm("b", max_concurrent_jobs=3), donor("other"), llm("far", region="oceania")]
    wanted = chain(2, region="asia-east", allow_cross_region=False)
    async with small_grid(*there) as c, serving(c.client, wanted) as service:
        assert donors(service) == {"a": Phase.READY, "b": Phase.READY}
        service.scale(MODEL, 3)
        await until(lambda: "wrong_region" in service._models[MODEL].supervisor.why())
        assert (await service.models())[0].why.startswith("2 of 3 replicas of chain serve; one is placing (waits")
        service.scale(MODEL, 1)
        await until(lambda: len(donors(service)) == 1)
        await until(lambda: c.load("a").running + c.load("b").running == 1)


async def test_nobody_may_take_it():
    async with small_grid(donor("a")) as c, LlmService(c.client, [chain()], wait=1.8) as service:
        with pytest.raises(NoReplica, match="type_not_supported"):
            await Reader(service, a_request()).ended()
        assert "type_not_supported" in (await service.ready()).reason


async def test_what_is_refused_is_raised_before_the_first_event():
    async with small_grid(llm("a")) as c, serving(c.client, chain(queue_limit=1, pace=0.02)) as service:
        with pytest.raises(RequestRefused, match="empty"):
            await Reader(service, Request(id="x", prompt=())).ended()
        first = Reader(service, a_request("first", 10_000))
        await first.at_least(1)
        with pytest.raises(QueueFull):
            await Reader(service, a_request("second")).ended()
        first.done.cancel()
        await until(lambda: service._models[MODEL].supervisor.replicas()[0].serving.in_flight == 0)
        with pytest.raises(UnknownModel, match="Did you mean 'chain'"):
            await Reader(service, a_request(), "chains").ended()


async def test_a_full_replica_is_passed_over():
    async with small_grid(llm("a"), llm("b")) as c, serving(c.client, chain(2, queue_limit=1, pace=0.02)) as service:
        readers = [Reader(service, a_request(f"r{n}", 60)) for n in range(2)]
        for reader in readers:
            await reader.ended()
            assert reader.tokens == answer_to(a_request(n=60))


async def test_a_request_ends_when_its_time_is_over_wherever_it_is():
    async with small_grid(llm("a")) as c, serving(c.client, chain(pace=0.02)) as service:
        reader = Reader(service, a_request(n=10_000, timeout=0.2))
        await reader.at_least(2)
        service.scale(MODEL, 0)  # and there is nobody to say so
        assert (await reader.ended()).reason is FinishReason.TIMEOUT


async def test_a_service_that_closes_ends_its_streams():
    async with small_grid(llm("a")) as c, serving(c.client, chain(pace=0.005)) as service:
        reader = Reader(service, a_request(n=100_000))
        await reader.at_least(1)
        await service.withdraw(MODEL)
        end = await reader.ended()
        assert end.reason is FinishReason.ERROR
        assert "chain is not served any more" in end.error


async def test_who_stops_reading_frees_the_replica():
    async with small_grid(llm("a")) as c, serving(c.client, chain(pace=0.005)) as service:
        reader = Reader(service, a_request(n=100_000))
        await reader.at_least(1)
        reader.done.cancel()
        await asyncio.gather(reader.done, return_exceptions=True)
        [replica] = service._models[MODEL].supervisor.replicas()
        await until(lambda: replica.serving.status.running == 0)


@pytest.mark.parametrize("patience", [5.0, 0.0], ids=["it-finishes-there", "it-is-moved"])
async def test_a_donor_that_drains_is_left_and_nobody_notices(patience):
    options = {"patience": replace(QUICK, drain=patience)}
    async with small_grid(llm("a")) as c, serving(c.client, chain(pace=0.005), **options) as service:
        reader = Reader(service, a_request(n=250))
        await reader.at_least(5)
        await c.join(llm("b"))
        await c.client.scheduler.grid_control(donor="a", action="drain")
        await until(lambda: donors(service) == {"b": Phase.READY})
        await until(lambda: c.load("a").running == 0)  # the slot is free: the worker may be retired
        retired = await c.client.retire_workers([c.workers["a"].address])
        assert len(retired) == 1
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == answer_to(a_request(n=250))
        assert reader.text == text_of(reader.tokens)
        assert (await service.models())[0].losses == (0 if patience else 1)


async def test_a_change_is_brought_up_first_and_answers_end_where_they_began():
    async with small_grid(llm("a"), llm("b")) as c, serving(c.client, chain(pace=0.005)) as service:
        before = service._models[MODEL].supervisor
        [began] = donors(service)
        reader = Reader(service, a_request(n=250))
        await reader.at_least(5)
        service.change(chain(pace=0.001))
        assert (await service.models())[0].changing
        assert "the change is brought up beside what serves" in (await service.models())[0].why
        await until(lambda: service._models[MODEL].supervisor is not before)
        assert not (await service.models())[0].changing
        assert not reader.done.done()
        late = Reader(service, a_request("late", 5))
        await late.ended()
        assert late.tokens == answer_to(a_request(n=5))
        assert {began, *late.taken_by} == {"a", "b"}
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert (reader.tokens, reader.taken_by) == (answer_to(a_request(n=250)), [began])
        await until(lambda: before.closed)
        await until(lambda: c.load(began).running == 0)
        assert (await service.models())[0].losses == 0


async def test_a_change_that_finds_no_donors_beside_what_serves_begins_anew(monkeypatch):
    monkeypatch.setattr(rolling, "ROOM", 0.5)
    async with small_grid(llm("a")) as c, serving(c.client, chain(pace=0.005)) as service:
        before = service._models[MODEL].supervisor
        reader = Reader(service, a_request(n=100_000))
        await reader.at_least(1)
        service.change(chain(pace=0.001))
        assert (await reader.ended()).reason is FinishReason.ERROR
        assert before.closed
        await until(lambda: service._models[MODEL].supervisor is not before)
        late = Reader(service, a_request("late", 5))
        await late.ended()
        assert late.tokens == answer_to(a_request(n=5))


async def test_another_change_takes_the_place_of_one_that_is_not_made_yet_and_withdrawing_ends_all():
    async with small_grid(llm("a")) as c:
        async with serving(c.client, chain(pace=0.005)) as service:
            service.change(chain(pace=0.001))
            first = service._models[MODEL].change.after.supervisor
            service.change(chain(pace=0.002))
            await until(lambda: first.closed)
            second = service._models[MODEL].change.after.supervisor
            service.scale(MODEL, 2)
            assert second.deployment.replicas == 2
            service.change(chain(pace=0.005))
            await until(lambda: second.closed)
            assert not (await service.models())[0].changing, "back to what serves"
            service.change(chain(pace=0.001))
            third = service._models[MODEL].change.after.supervisor
            await service.withdraw(MODEL)
            assert third.closed
        await until(lambda: c.load("a").running == 0)


@pytest.mark.slow
async def test_a_model_that_cannot_be_loaded_is_tried_elsewhere_ever_more_rarely_and_says_why(tmp_path):
    fails = tmp_path / "fails"
    fails.touch()
    wanted = chain(fail_on=str(fails), pids=str(tmp_path / "pids"))
    (tmp_path / "pids").mkdir()
    async with small_grid(llm("a"), llm("b")) as c, LlmService(c.client, [wanted], wait=1.0) as service:
        supervisor = service._models[MODEL].supervisor
        await until(lambda: "can't be loaded here" in supervisor.last_end)
        with pytest.raises(
            NoReplica, match=r"RuntimeError: this model can't be loaded here; the next is tried in \d s"
        ):
            await Reader(service, a_request()).ended()
        fails.unlink()
        await ready(service, 1)
        assert supervisor._setbacks.failures == 0


async def test_closing_gives_every_place_back_and_leaves_no_thread():
    async with small_grid(llm("a"), llm("b")) as c:
        async with serving(c.client, chain(2)):
            assert sum(thread.name == "idlegrid-host" for thread in threading.enumerate()) == 2
            # tasks on the same worker use the replica's engine, instead of loading the model once more
            assert llm_engine(MODEL, engine="chain_engine:make").facts.model == MODEL
            assert len(resident._lent) == 2
            assert not [key for key in resident._engines._models if key[0] == MODEL]
        assert not resident._lent
        await until(lambda: not c.scheduler.tasks)
        await until(lambda: c.load("a").running + c.load("b").running == 0)
        await until(lambda: all(thread.name != "idlegrid-host" for thread in threading.enumerate()))


@pytest.mark.slow
async def test_a_service_that_vanishes_leaves_no_engine_behind():
    async with small_grid(llm("a")) as c:
        service = await LlmService(c.scheduler.address, [chain()]).__aenter__()
        await ready(service, 1)
        service._link._client.scheduler_comm.comm.abort()  # as if its process were killed
        [replica] = service._models[MODEL].supervisor.replicas()
        await until(lambda: all(thread.name != "idlegrid-host" for thread in threading.enumerate()))
        await until(lambda: c.load("a").running == 0 or replica.serving is None)
        await asyncio.wait_for(service.close(), DEADLINE)


async def test_what_cannot_be_wanted():
    async with small_grid() as c, LlmService(c.client) as service:
        service.deploy(chain(0))
        with pytest.raises(ValueError, match="deployed already"):
            service.deploy(chain())
        await service.withdraw(MODEL)
        with pytest.raises(UnknownModel, match="none is"):
            await service.facts(MODEL)
    with pytest.raises(ValueError, match="Did you mean 'torch'"):
        Deployment(model="m", engine="torhc")
    with pytest.raises(ValueError, match="0 or more"):
        Deployment(model="m", replicas=-1)

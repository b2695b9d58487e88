"""Worker processes are killed, frozen and gone: the reader gets the tokens of an undisturbed run, and one end."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx
import pytest
import uvicorn
from chain_engine import answer_to, hosts_here, text_of
from distributed import Client
from hash_embedder import HashEmbedder
from serving_helpers import (
    DEADLINE,
    MODEL,
    QUICK,
    Reader,
    WorkerProcess,
    a_request,
    chain,
    donors,
    ready,
    serving,
    until,
)

from idlegrid.actors.llm.request import FinishReason, Sampling
from idlegrid.api.http import create_app
from idlegrid.api.llm_backend import ServiceBackend
from idlegrid.grid.config import Settings
from idlegrid.pipelines.llm.deployment import Deployment, Phase
from idlegrid.pipelines.llm.journal import Journal
from idlegrid.scheduler_plugins.scheduler import GridScheduler

pytestmark = pytest.mark.slow


@dataclass
class Grid:
    """A scheduler here, a worker process for each donor, and a service on them."""

    scheduler: GridScheduler
    client: Client
    stack: AsyncExitStack
    processes: dict[str, WorkerProcess] = field(default_factory=dict)

    async def join(self, name):
        self.processes[name] = WorkerProcess(self.scheduler.address, name)
        self.stack.callback(self.processes[name].end)
        await until(lambda: self.scheduler.grid.roster.get(name) is not None)

    def kill(self, name):
        self.processes[name].send(signal.SIGKILL)

    async def hosts_on(self, donor):
        """How many hosts live in a worker's process."""
        address = self.scheduler.grid.roster.get(donor).ws.address
        return (await self.client.run(hosts_here, workers=[address]))[address]


@asynccontextmanager
async def served(deployment, *names, **options):
    """A grid of these donors and a service whose replicas are ready."""
    async with AsyncExitStack() as stack:
        settings = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
        scheduler = await stack.enter_async_context(GridScheduler(**settings))
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
        grid = Grid(scheduler, client, stack)
        await asyncio.gather(*(grid.join(name) for name in names))
        service = await stack.enter_async_context(serving(client, deployment, **options))
        yield grid, service


def holder(service):
    """The donor whose replica has a request."""
    [replica] = [
        one for one in service._models[MODEL].supervisor.replicas() if one.serving is not None and one.serving.in_flight
    ]
    return replica.view(0.0).donor_id


PACED = {"pace": 0.01}
REQUESTS = [replace(a_request(f"r{n}", 150), prompt=(n,)) for n in range(8)]


async def test_a_killed_worker_is_not_noticed_and_comes_back_elsewhere():
    async with served(chain(2, **PACED), "a", "b", "spare") as (grid, service):
        before = donors(service)
        readers = [Reader(service, one) for one in REQUESTS]
        for reader in readers:
            await reader.at_least(20)
        victim = next(iter(before))
        grid.kill(victim)
        for reader, asked in zip(readers, REQUESTS, strict=True):
            assert (await reader.ended()).reason is FinishReason.LENGTH
            assert reader.tokens == answer_to(asked)
            assert reader.text == text_of(reader.tokens)
            assert reader.end.completion_tokens == 150
        await ready(service, 2)
        await until(lambda: set(donors(service)) == {"a", "b", "spare"} - {victim})


async def test_the_only_replica_is_killed_and_the_stream_goes_on_when_another_has_come():
    async with served(chain(1, load_seconds=1.0, **PACED), "a", "b") as (grid, service):
        [victim] = donors(service)
        reader = Reader(service, a_request(n=150))
        await reader.at_least(20)
        grid.kill(victim)
        await reader.ended()
        assert reader.tokens == answer_to(a_request(n=150))
        assert reader.text == text_of(reader.tokens)
        assert reader.taken_by == [victim, *({"a", "b"} - {victim})]


def without_a_journal(monkeypatch, fault):
    """A router that only asks again: for the whole answer (``forgets``), or for all but the last token."""

    def begin(self, timeout):
        self.attempt += 1
        known = tuple(self.known) if fault == "restarts" else ()
        return replace(
            self._request, id=f"{self._request.id}.{self.attempt}", known=() if fault == "forgets" else known[:-1]
        )

    monkeypatch.setattr(Journal, "begin", begin)
    monkeypatch.setattr(Journal, "take", naive_take)


@asynccontextmanager
async def over_http(service):
    """The URL of chat completions, on a server of this loop."""
    app = create_app(HashEmbedder(), Settings(), ServiceBackend(service))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    socket = server.config.bind_socket()
    socket.listen()
    serving_it = asyncio.create_task(server.serve(sockets=[socket]))
    yield "http://{}:{}/v1/chat/completions".format(*socket.getsockname())
    server.should_exit = True
    await asyncio.wait_for(serving_it, DEADLINE)
    socket.close()


HTTP = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "seed": 5, "max_tokens": 150, "stream": True}


async def text_over_http(url, after, then):
    """The text of a streamed answer; `then` is called when so many pieces of it have come."""
    pieces = []
    async with httpx.AsyncClient(timeout=DEADLINE) as client, client.stream("POST", url, json=HTTP) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                document = json.loads(line.removeprefix("data: "))
                pieces += [choice["delta"].get("content", "") for choice in document["choices"]]
                if len(pieces) == after:
                    then()
    return "".join(pieces)


@pytest.mark.parametrize("protected", [True, False], ids=["as it is", "control"])
async def test_over_http_the_text_is_that_of_an_undisturbed_run(protected, monkeypatch):
    if not protected:
        without_a_journal(monkeypatch, "forgets")
    right = text_of(answer_to(a_request(n=150, prompt=tuple(b"Hi"), sampling=Sampling(max_tokens=150, seed=5))))
    async with served(chain(2, **PACED), "a", "b") as (grid, service), over_http(service) as url:
        text = await text_over_http(url, 20, lambda: grid.kill(holder(service)))
        assert (text == right) is protected
        assert service._models[MODEL].router.losses == 1


@pytest.mark.parametrize("fault", ["forgets", "restarts"])
async def test_control_without_the_journal_tokens_are_repeated(fault, monkeypatch):
    """The same death with a router that only asks again. It may never pass the other tests."""
    without_a_journal(monkeypatch, fault)
    async with served(chain(2, **PACED), "a", "b") as (grid, service):
        reader = Reader(service, a_request(n=60))
        await reader.at_least(20)
        grid.kill(holder(service))
        await reader.ended()
        right = answer_to(a_request(n=60))
        assert reader.tokens != right
        assert len(reader.tokens) > len(right)  # some were given twice


def naive_take(self, attempt, at, event):
    """Whatever comes is given out."""
    self.known += getattr(event, "ids", ())
    self.ended = not hasattr(event, "ids")
    return event


async def test_a_frozen_worker_is_replaced_and_what_it_says_when_it_wakes_counts_for_nothing():
    async with served(chain(1, **PACED), "a", "b") as (grid, service):
        [zombie] = donors(service)
        epoch = service._models[MODEL].supervisor.replicas()[0].epoch
        reader = Reader(service, a_request(n=300))
        await reader.at_least(20)
        grid.processes[zombie].send(signal.SIGSTOP)
        given = len(reader.tokens)
        await reader.at_least(given + 50)  # it goes on elsewhere, while the first one sleeps
        [(elsewhere, phase)] = donors(service).items()
        assert (elsewhere != zombie, phase) == (True, Phase.READY)
        grid.processes[zombie].send(signal.SIGCONT)
        assert (await reader.ended()).reason is FinishReason.LENGTH
        assert reader.tokens == answer_to(a_request(n=300))
        [replica] = service._models[MODEL].supervisor.replicas()
        assert replica.epoch > epoch
        async with asyncio.timeout(20):
            while await grid.hosts_on(zombie):  # noqa: ASYNC110 - it lets its engine go
                await asyncio.sleep(0.1)
        assert await grid.hosts_on(elsewhere) == 1


async def test_when_nobody_comes_back_the_stream_ends_with_an_error_in_time():
    async with served(chain(2, **PACED), "a", "b", wait=3.0) as (grid, service):
        reader = Reader(service, a_request(n=10_000))
        await reader.at_least(20)
        loop = asyncio.get_running_loop()
        since = loop.time()
        for process in grid.processes.values():
            process.send(signal.SIGKILL)
        end = await reader.ended()
        assert loop.time() - since < 3.0 + 2 * QUICK.silence + 2
        assert end.reason is FinishReason.ERROR
        assert end.completion_tokens == len(reader.tokens) >= 20
        assert reader.tokens == answer_to(a_request(n=10_000))[: len(reader.tokens)]
        assert "no replica could take it within 3 s" in end.error
        assert "no worker is here" in end.error
        await grid.join("c")  # and when somebody comes, it serves again
        await ready(service, 1)
        late = Reader(service, a_request(n=5))
        await late.ended()
        assert late.tokens == answer_to(a_request(n=5))


async def test_a_request_that_kills_its_workers_is_given_up():
    async with served(chain(1, poison=13, **PACED), "a", "b", "c") as (_, service):
        reader = Reader(service, a_request(n=50, known=(1, 2), prompt=(13,)))
        end = await reader.ended()
        assert end.reason is FinishReason.ERROR
        assert "3 replicas were lost while they served it" in end.error


GREEDY = Sampling(temperature=0, top_p=1.0, max_tokens=200, ignore_eos=True)
DRAWN = Sampling(temperature=1.0, top_p=0.9, seed=7, max_tokens=200, ignore_eos=True, repetition_penalty=1.1)


async def test_our_engine_goes_on_with_the_same_text(language_model):
    """Text with characters of several tokens: half of one may have been held back when the worker died."""
    folder = str(language_model.folder)
    options = {"kv_cache_gb": 0.01}
    wanted = Deployment(model=MODEL, source=folder, engine="torch", replicas=2, dtype="float32", options=options)
    async with served(wanted, "a", "b", patience=replace(QUICK, silence=10, load=60)) as (grid, service):
        prompt = tuple(await service.encode_chat(MODEL, [{"role": "user", "content": "Größe 你好 🙂"}]))
        asked = [
            replace(a_request(f"{kind}-{n}"), prompt=(*prompt, n + 5), sampling=sampling)
            for kind, sampling in (("greedy", GREEDY), ("drawn", DRAWN))
            for n in range(3)
        ]
        undisturbed = [Reader(service, replace(one, id=f"first-{one.id}")) for one in asked]
        for reader in undisturbed:
            await reader.ended()
        readers = [Reader(service, one) for one in asked]
        for reader in readers:
            await reader.at_least(30)
        victim = max(service._models[MODEL].supervisor.views(), key=lambda view: view.in_flight).donor_id
        grid.kill(victim)
        alive_then = [len(reader.tokens) for reader in readers]
        for reader, right in zip(readers, undisturbed, strict=True):
            await reader.ended()
            assert reader.tokens == right.tokens
            assert reader.text == right.text
            assert reader.end.completion_tokens == right.end.completion_tokens
        assert min(alive_then) < 200  # it was in mid-stream

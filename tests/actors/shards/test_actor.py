"""Stages on real worker processes of Dask: every cut of every family. Who is killed: test_failover.py."""

import asyncio
import random
import uuid
from contextlib import asynccontextmanager

import pytest
from cut_scenario import BLOCK, BLOCKS, FAMILIES, LAYERS, cuts, generate, requests, sequencer, truth

from idlegrid.actors.shards.actor import StageActor, StageSpec, place_of
from idlegrid.actors.shards.chain import connect_chain
from idlegrid.actors.shards.head import Head
from idlegrid.actors.shards.leg import Pace

pytestmark = pytest.mark.slow
LATE = 100.0
PACE = Pace(beat=0.2, silence=30.0, connect=20.0, patience=60.0)
THREE = list(cuts())[-1]


class Chains:
    """Stages of one model on the workers of a cluster, one to a worker."""

    def __init__(self, client, model, dtype):
        self.client, self.model, self.dtype = client, model, dtype
        self.held = {}
        self.head = None

    async def place(self, layers, worker):
        spec = StageSpec(
            model=str(self.model.folder),
            layers=layers,
            dtype=self.dtype,
            num_blocks=BLOCKS,
            block_size=BLOCK,
            threads=1,
            pace=PACE,
        )
        actor = await self.client.submit(StageActor, spec, actor=True, workers=[worker], pure=False)
        self.held[layers.start] = (actor, await actor.start())
        return self.held[layers.start][1]

    async def connect(self, epoch, **head):
        stages = [self.held[start] for start in sorted(self.held)]
        if self.head is None:
            started = stages[0][1]
            self.head = await asyncio.to_thread(
                lambda: Head(uuid.uuid4().bytes, started.model, started.num_layers, pace=PACE, **head)
            )
        await connect_chain(self.head, [place_of(*stage) for stage in stages], epoch)

    async def close(self):
        if self.head is not None:
            await asyncio.to_thread(self.head.close)
        for actor, _ in self.held.values():
            await actor.stop()


@asynccontextmanager
async def chains(client, model, cut, dtype="float32", **head):
    workers = sorted(await client.nthreads())
    ours = Chains(client, model, dtype)
    try:
        async with asyncio.timeout(LATE):
            await asyncio.gather(*(ours.place(layers, worker) for layers, worker in zip(cut, workers, strict=False)))
            await ours.connect(1, **({"deadline": LATE} | head))
        yield ours
    finally:
        await ours.close()


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster with as many workers as stages."""
    from distributed import LocalCluster

    quiet = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "silence_logs": "ERROR"}
    with LocalCluster(n_workers=LAYERS, threads_per_worker=1, **quiet) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
async def client(scheduler):
    from distributed import Client

    async with Client(scheduler, asynchronous=True, direct_to_workers=True) as client:
        await client.wait_for_workers(LAYERS, timeout=LATE)
        yield client


@pytest.mark.parametrize("family", FAMILIES)
async def test_every_cut_on_worker_processes_gives_the_tokens_of_generate(family, make_model, client):
    for number, cut in enumerate(cuts()):
        dtype = ("float32", "float64")[number % 2]
        model = make_model(family, dtype)
        async with chains(client, model, cut, dtype) as ours:
            assert len({started.pid for _, started in ours.held.values()}) == len(cut)
            plans = sequencer()
            for count in (1, 16):
                draw = random.Random(f"{family}{number}{count}")
                asked = requests(draw, count)
                texts = await asyncio.to_thread(generate, plans, ours.head, asked, draw)
                assert texts == truth(model, asked), (cut, count)
            assert plans.stats().prefix_hit_tokens


async def test_stages_hold_their_share_and_together_the_whole(make_model, client):
    model = make_model("llama")
    sizes = {name: tensor.nbytes for name, tensor in model.peer.state_dict().items() if name != "lm_head.weight"}
    async with chains(client, model, THREE) as ours:
        started = [ours.held[layers.start][1] for layers in THREE]
        assert started[1].bytes_loaded == sum(
            size for name, size in sizes.items() if name.startswith("model.layers.1.")
        )
        embedding = sizes["model.embed_tokens.weight"]  # tied: the first and the last stage have it
        assert sum(each.bytes_loaded for each in started) == sum(sizes.values()) + embedding
        assert len({each.bytes_of_pages for each in started}) == 1

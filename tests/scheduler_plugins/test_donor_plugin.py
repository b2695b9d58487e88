"""The worker's half: facts and load reach the scheduler from wherever Dask starts a worker."""

import asyncio
import pickle
import threading
from dataclasses import replace

import dask
import pytest
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster, Worker
from distributed.diagnostics import nvml
from small_cluster import annotation, cluster, donor, until
from small_tasks import where

from idlegrid.grid.layers.speed import Source, Speed
from idlegrid.grid.schedule import Schedule
from idlegrid.scheduler_plugins.donor_plugin import DonorPlugin, gpu_memory_used_gb
from idlegrid.scheduler_plugins.facts import KEY, Report, Statement
from idlegrid.scheduler_plugins.scheduler import GridScheduler

FULL = donor(
    "id",
    region="europe-west",
    gpu_model="RTX 4090",
    gpu_memory_gb=24.0,
    gpu_count=1,
    models=frozenset({"m"}),
    working_hours_start=22,
    working_hours_end=6,
    schedule=Schedule("mon-fri 18:00-08:00, sat-sun 00:00-24:00"),
    time_zone="Europe/Berlin",
)


def test_a_statement_survives_the_wire():
    from distributed.protocol import dumps, loads

    speed = Speed(device="cpu", dtype="float32", source=Source.PROBED, read_bytes_s=1e9, compute_bytes_s=2e9)
    measured = {"speeds": (speed,), "links": {"b": 0.02}}
    said = Statement(
        FULL, Report(sequence=3, gpu_memory_used_gb=1.5, loaded=frozenset({"m", "n"}), paused=True, **measured)
    )
    wire = loads(dumps(said.to_wire(), serializers=["msgpack"]), deserializers=["msgpack"])
    assert Statement.from_wire(wire) == said
    assert Statement.from_wire({**wire, "new": 1, "donor": {**wire["donor"], "newer": 2}}) == said, "a newer worker's"
    later = [*wire["report"]["speeds"], {"device": "cpu", "source": "of a later version"}]
    assert Statement.from_wire({**wire, "report": {**wire["report"], "speeds": later}}) == said, (
        "what can't be read is no reason to do without its work"
    )


@pytest.mark.parametrize(
    "broken", [{}, {"donor": {}}, {"donor": {"id": 7}, "report": {}}, {"donor": {"id": ""}, "report": {}}]
)
def test_a_statement_that_says_too_little_is_refused(broken):
    with pytest.raises((KeyError, ValueError)):
        Statement.from_wire(broken)


async def test_the_facts_come_with_the_registration():
    """Before any heartbeat, so that the first task goes by the rules."""
    async with cluster(FULL) as c:
        metrics = c.scheduler.workers[c.workers["id"].address].metrics
        assert Statement.from_wire(metrics[KEY]).donor == FULL


async def test_what_was_measured_is_told_at_once_and_not_again_while_it_says_nothing_new():
    async with cluster() as c:
        await c.join(donor("a"), heartbeat_interval="100s")
        plugin = c.plugin("a")
        speed = Speed(device="cpu", dtype="float32", source=Source.MEASURED, layer_bytes=7, read_bytes_s=1e9)
        plugin.measured(speed)
        plugin.linked("b", 0.02)
        await until(lambda: c.scheduler.grid.roster.get("a").report.links == {"b": 0.02})
        [row] = (await c.client.scheduler.grid_state())["workers"]
        assert (row["speeds"], row["links"]) == ([speed.to_wire()], {"b": 0.02})
        told = plugin.report.sequence
        plugin.measured(replace(speed, read_bytes_s=1.01e9))
        plugin.linked("b", 0.021)
        assert plugin.report.sequence == told


async def test_changes_are_pushed_at_once_from_any_thread():
    async with cluster() as c:
        await c.join(donor("a"), heartbeat_interval="100s")
        plugin = c.plugin("a")
        thread = threading.Thread(target=lambda: (plugin.loaded("m"), plugin.loaded("n"), plugin.unloaded("m")))
        thread.start()
        await until(lambda: c.load("a").loaded == {"n"})
        thread.join()
        plugin.drain()
        await until(lambda: c.load("a").draining)


async def test_new_limits_count_at_once_and_the_id_stays():
    async with cluster(donor("a")) as c:
        c.plugin("a").set_donor(donor("a", max_concurrent_jobs=7))
        await until(lambda: c.scheduler.grid.roster.get("a").donor.limits.max_concurrent_jobs == 7)
        with pytest.raises(ValueError, match="keeps its id"):
            c.plugin("a").set_donor(donor("b"))


async def test_a_slow_heartbeat_does_not_undo_a_push():
    async with cluster(donor("a")) as c:
        ws = c.scheduler.workers[c.workers["a"].address]
        old = c.plugin("a").statement().to_wire()
        c.plugin("a").pause()
        await until(lambda: c.load("a").paused)
        c.scheduler.grid.heard(ws, old)
        assert c.load("a").paused


async def test_slots_of_work_that_came_another_way_are_not_given_away():
    async with cluster(donor("a")) as c:
        c.plugin("a").elsewhere(1)
        await until(lambda: c.load("a").running == 1)
        with dask.annotate(**annotation()):
            future = c.client.submit(where, pure=False)
        await until(lambda: (ts := c.scheduler.tasks.get(future.key)) is not None and ts.state == "no-worker")
        c.plugin("a").elsewhere(0)
        assert await future == "a"


async def test_a_plugin_can_be_sent_to_workers_that_run_already():
    async with cluster(None) as c:
        await c.client.register_plugin(DonorPlugin(donor("fleet"), per_worker=True))
        await until(lambda: c.scheduler.grid.roster.get("fleet/stock"))
        with dask.annotate(**annotation()):
            assert await c.client.submit(where, pure=False) == "stock"
        await c.client.unregister_worker_plugin(DonorPlugin.name)
        assert DonorPlugin.of(c.workers["stock"]) is None


async def test_one_plugin_serves_all_workers_of_a_cluster_in_this_process():
    plugin = DonorPlugin(donor("fleet"), per_worker=True)
    assert pickle.loads(pickle.dumps(plugin)).per_worker
    async with GridScheduler(protocol="inproc", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        options = {"dashboard": False, "plugins": (plugin,)}
        async with Worker(scheduler.address, name="x", **options), Worker(scheduler.address, name="y", **options):
            assert {seat.donor.id for seat in scheduler.grid.roster} == {"fleet/x", "fleet/y"}


async def test_a_worker_with_our_plugin_is_at_home_with_a_stock_scheduler():
    async with Scheduler(protocol="inproc", port=0, dashboard_address="127.0.0.1:0") as scheduler:
        plugin = DonorPlugin(donor("a"))
        async with (
            Worker(scheduler.address, name="w", dashboard=False, plugins=(plugin,)) as worker,
            Client(scheduler.address, asynchronous=True) as client,
        ):
            plugin.pause()
            await worker.heartbeat()
            assert await client.submit(where, pure=False) == "w"


def test_without_a_gpu_no_memory_is_used():
    if nvml.device_get_count():
        assert gpu_memory_used_gb() > 0
    else:
        assert gpu_memory_used_gb() == 0.0


@pytest.mark.slow
async def test_worker_processes_under_nannies_say_what_they_are():
    workers = {
        name: {"cls": Nanny, "options": {"nthreads": 1, "dashboard": False, "plugins": (DonorPlugin(donor(name)),)}}
        for name in ("one", "two")
    }
    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # without one it takes Dask's usual port
    scheduler = {"cls": GridScheduler, "options": {"host": "127.0.0.1", "port": 0, **quiet}}
    async with (
        SpecCluster(workers=workers, scheduler=scheduler, asynchronous=True) as spec,
        Client(spec, asynchronous=True) as client,
    ):
        await client.wait_for_workers(2)
        with dask.annotate(**annotation()):
            assert set(await client.gather(client.map(where, range(20), pure=False))) <= {"one", "two"}
        state = await client.scheduler.grid_state()
        assert {row["id"] for row in state["workers"]} == {"one", "two"}
        row = await client.scheduler.grid_control(donor="one", action="pause")
        assert row["state"] == "paused"


@pytest.mark.slow
async def test_a_local_cluster_of_dask_takes_the_plugin():
    async with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            scheduler_kwargs={"preload": ["idlegrid.scheduler_plugins.preload"]},
            plugins=(DonorPlugin(donor("fleet"), per_worker=True),),
            dashboard_address="127.0.0.1:0",
            asynchronous=True,
        ) as local,
        Client(local, asynchronous=True) as client,
    ):
        await asyncio.wait_for(client.wait_for_workers(2), 30)
        assert {row["id"] for row in (await client.scheduler.grid_state())["workers"]} == {"fleet/0", "fleet/1"}

"""The gate on real connections with mutual TLS (checks A1, A2): a donor's certificate opens its own work, no more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import struct
from datetime import UTC, datetime, timedelta

import pytest
from distributed import Client, NannyPlugin, Scheduler, SchedulerPlugin, WorkerPlugin
from distributed.comm import connect
from distributed.comm.core import CommClosedError
from distributed.core import rpc
from distributed.protocol import to_serialize
from distributed.protocol.core import dumps, loads
from distributed.protocol.pickle import dumps as pickled
from distributed.protocol.serialize import Serialized, ToPickle
from gated_cluster import Papers, gated_cluster

from idlegrid.grid.certificate_files import open_authority
from idlegrid.grid.peers import Role
from idlegrid.scheduler_plugins import gated_comm
from idlegrid.scheduler_plugins.gate import Refusal
from idlegrid.scheduler_plugins.gated_comm import Refused, decoded
from idlegrid.scheduler_plugins.security import GridSecurity

ANSWER = 20.0
"""Seconds for an answer or a hang-up, either of which comes at once."""


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def papers(tmp_path):
    return Papers(tmp_path / "tls")


def pid(**_):
    return os.getpid()


def calls(worker):
    """What a client may have the scheduler do; `worker`: address of one. Each is answered where there is no gate."""
    run = {"op": "run", "function": pickled(pid)}
    return {
        "register-client": {"client": "evil", "versions": {}},
        "run_function": {"function": pickled(pid), "wait": True},
        "broadcast": {"msg": run},
        "proxy": {"msg": run, "worker": worker},
        "scatter": {"data": {"x": to_serialize(1)}, "workers": None, "client": "evil", "timeout": 5},
        "gather": {"keys": ["x"]},
        "register_scheduler_plugin": {"plugin": pickled(SchedulerPlugin()), "name": "evil", "idempotent": False},
        "register_worker_plugin": {"plugin": pickled(WorkerPlugin()), "name": "evil", "idempotent": False},
        "register_nanny_plugin": {"plugin": pickled(NannyPlugin()), "name": "evil", "idempotent": False},
        "unregister_worker_plugin": {"name": "shuffle"},
        "who_has": {},
        "has_what": {},
        "processing": {"workers": None},
        "identity": {},
        "ncores": {},
        "get_cluster_state": {"exclude": ()},
        "get_logs": {},
        "worker_logs": {},
        "events": {},
        "get_task_stream": {},
        "get_metadata": {"keys": ["x"], "default": 1},
        "set_metadata": {"keys": ["x"], "value": 1},
        "retire_workers": {"workers": ["nobody"]},
        "adaptive_target": {},
        "publish_list": {},
        "grid_state": {},
        "grid_histories": {"donors": {}, "usual": {}},
        "rebalance": {"keys": [], "workers": []},
        "set_restrictions": {"worker": {}},
        "restart_workers": {"workers": [], "stimulus_id": "x"},
    }


async def answered(address, security, op, message) -> bool:
    """Whether this call has an answer: no word means that it was hung up on."""
    comm = await connect(address, **security.get_connection_args("client"))
    try:
        async with asyncio.timeout(ANSWER):
            await comm.write({"op": op, "reply": True, **message})
            answer = await comm.read()
    except CommClosedError:
        return False
    finally:
        comm.abort()
    return not (isinstance(answer, dict) and answer.get("status") == "uncaught-error")


async def tried(address, worker, security):
    return {op for op, message in calls(worker).items() if await answered(address, security, op, message)}


async def test_a1_a_worker_s_certificate_gets_none_of_a_client_s_calls(papers):
    gated_comm.refused.clear()
    async with gated_cluster(papers, "honest") as (s, [worker]):
        assert await tried(s.address, worker.address, papers.stock(Role.WORKER, "evil")) == set()
        assert {what.split()[0] for who, what in gated_comm.refused if "evil" in who} == calls("").keys()
        assert set(s.clients) == {"fire-and-forget"}
        with pytest.raises(OSError):
            await Client(s.address, security=papers.stock(Role.WORKER, "evil"), asynchronous=True, timeout=5)
        async with Client(s.address, security=papers.gated(Role.CLIENT, "me"), asynchronous=True) as client:
            assert await client.submit(sum, [1, 2]) == 3  # and everybody else goes on


async def test_a1_control_without_the_gate_they_succeed(papers):
    async with gated_cluster(papers, "honest", gate=False) as (s, [worker]):
        done = await tried(s.address, worker.address, papers.stock(Role.WORKER, "evil"))
        assert calls("").keys() <= s.handlers.keys()
    assert done == calls("").keys()


async def test_a_registered_worker_gets_no_more_on_its_stream(papers):
    """After it registered, stock Dask would take a client's messages from it: a graph of tasks, for one."""
    async with gated_cluster(papers, "honest") as (s, [worker]):
        comm = await connect(s.address, **papers.stock(Role.WORKER, "evil").get_connection_args("worker"))
        await comm.write(_registration("tls://127.0.0.1:1", "evil") | {"metrics": await worker.get_metrics()})
        assert (await comm.read())["status"] == "OK"
        assert "tls://127.0.0.1:1" in s.workers
        await comm.write([{"op": "update-graph", "client": "evil", "expr_ser": None}])
        with pytest.raises(CommClosedError):
            await _read_on(comm)


async def test_a_worker_can_not_remove_another_or_speak_in_its_place(papers):
    async with gated_cluster(papers, "honest") as (s, [worker]):
        evil = papers.stock(Role.WORKER, "evil")
        for op in ("unregister", "heartbeat_worker"):
            assert not await answered(s.address, evil, op, {"address": worker.address})
        assert not await answered(s.address, evil, "register-worker", _registration(worker.address, "evil"))
        assert list(s.workers) == [worker.address]


async def _read_on(comm):
    while True:
        async with asyncio.timeout(ANSWER):
            await comm.read()


def _registration(address, name):
    return {
        "op": "register-worker",
        "reply": False,
        "address": address,
        "status": "running",
        "nthreads": 1,
        "name": name,
        "now": 0.0,
        "resources": {},
        "memory_limit": 0,
        "local_directory": "",
        "services": {},
        "nanny": None,
        "pid": 1,
        "versions": {},
        "metrics": {},
        "extra": {},
        "stimulus_id": "x",
        "server_id": "x",
    }


async def bombs(comm, path):
    """Send a pickle in a call; True when the peer unpickled it."""
    with contextlib.suppress(CommClosedError):
        async with asyncio.timeout(ANSWER):
            await comm.write({"op": "nonsense", "x": ToPickle(Canary(path))})
            await comm.write({"op": "identity", "n_workers": 0})
            await comm.read()
    comm.abort()
    return path.exists()


@pytest.mark.parametrize("gate", [True, False], ids=["gate", "control"])
async def test_a2_a_pickle_from_a_worker_is_never_opened(papers, tmp_path, gate):
    async with gated_cluster(papers, "honest", gate=gate) as (s, [worker]):
        evil = papers.stock(Role.WORKER, "evil").get_connection_args("worker")
        opened = {
            "scheduler": await bombs(await connect(s.address, **evil), tmp_path / "a"),
            "worker": await bombs(await connect(worker.address, **evil), tmp_path / "b"),
        }
    assert opened == dict.fromkeys(opened, not gate)


@pytest.mark.parametrize("gate", [True, False], ids=["gate", "control"])
async def test_a2_nor_one_in_the_greeting(papers, tmp_path, gate):
    """Dask reads the greeting of a connection before any handler, and any gate among the handlers, hears of it."""
    async with gated_cluster(papers, gate=gate) as (s, _):
        args = papers.stock(Role.WORKER, "evil").get_connection_args("worker")
        with contextlib.suppress(CommClosedError):
            async with asyncio.timeout(ANSWER):
                comm = await connect(s.address, handshake_overrides={"x": ToPickle(Canary(tmp_path / "a"))}, **args)
                await comm.write({"op": "identity", "n_workers": 0})
                await comm.read()
        comm.abort()
    assert (tmp_path / "a").exists() is not gate


@pytest.mark.parametrize("gate", [True, False], ids=["gate", "control"])
async def test_a2_nor_one_in_an_answer(papers, tmp_path, gate):
    """The scheduler asks workers too; here one answers a client's `broadcast` with a pickle."""
    async with gated_cluster(papers, "evil", gate=gate) as (s, [worker]):
        worker.handlers["versions"] = lambda: {"x": ToPickle(Canary(tmp_path / "a"))}
        with contextlib.suppress(OSError):
            await s.broadcast(msg={"op": "versions"})
    assert (tmp_path / "a").exists() is not gate


async def test_no_room_is_made_for_what_a_worker_says_it_will_send(papers, monkeypatch):
    made: list[int] = []
    real = gated_comm.read_bytes_rw

    async def room(stream, size):
        made.append(size)
        return await real(stream, min(size, 2**20))

    async with gated_cluster(papers, "honest") as (s, _):
        monkeypatch.setattr(gated_comm, "read_bytes_rw", room)
        gated_comm.refused.clear()
        comm = await connect(s.address, **papers.stock(Role.WORKER, "evil").get_connection_args("worker"))
        await comm.stream.write(struct.pack("Q", 2**40))
        with pytest.raises(CommClosedError):
            async with asyncio.timeout(ANSWER):
                await comm.read()
    assert max(made, default=0) < 2**20
    assert gated_comm.refused["worker 'evil'", "a message of 1,048,576 MiB"] == 1


async def test_a2_nobody_without_a_certificate_of_this_grid_is_heard(papers, tmp_path):
    other = Papers(tmp_path / "another grid")
    async with gated_cluster(papers) as (s, _):
        for address, security in (
            (s.address, other.stock(Role.CLIENT, "me")),
            (s.address, _Nobody()),
            (s.address.replace("tls://", "tcp://"), papers.stock(Role.CLIENT, "me")),
        ):
            greeting = {"x": ToPickle(Canary(tmp_path / "a"))}
            with pytest.raises(OSError):
                await connect(
                    address,
                    timeout=1,
                    handshake_overrides=greeting,
                    **security.get_connection_args("client") | {"require_encryption": False},
                )
    assert not (tmp_path / "a").exists()


class _Nobody:
    """Speaks TLS, and has no certificate."""

    def get_connection_args(self, role):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return {"ssl_context": context}


async def test_work_flows_between_workers_and_nothing_else_does(papers):
    async with (
        gated_cluster(papers, "a", "b") as (s, [a, b]),
        Client(s.address, security=papers.gated(Role.CLIENT, "me"), asynchronous=True) as client,
    ):
        first = client.submit(list, range(5), workers=[a.address])
        assert await client.submit(sum, first, workers=[b.address]) == 10
        with pytest.raises(ZeroDivisionError):
            await client.submit(divmod, 1, 0)
        assert set((await client.run(os.getpid)).values()) == {os.getpid()}
        for op in ("run", "plugin-add", "terminate", "get_logs", "actor_execute"):
            assert not await answered(a.address, papers.stock(Role.WORKER, "b"), op, {"function": pickled(pid)})


async def test_what_remains_a_client_opens_the_results_that_it_fetches(papers, tmp_path):
    """Not a promise: the limit of it, told in docs/security.md. It must be told there for as long as this passes."""
    async with (
        gated_cluster(papers, "evil"),
        Client(papers.scheduler, security=papers.gated(Role.CLIENT, "me"), asynchronous=True) as client,
    ):
        future = client.submit(Canary, tmp_path / "a")
        await future
    assert (tmp_path / "a").exists()


async def test_a_worker_can_not_stand_in_for_the_scheduler(papers):
    """Who is at the scheduler's address with a donor's certificate gets neither a client nor a worker."""
    pretender = {"host": "127.0.0.1", "protocol": "tls://", "dashboard": False, "dashboard_address": ":0"}
    async with Scheduler(port=0, security=papers.stock(Role.WORKER, "evil"), **pretender) as s:
        papers.scheduler = s.address
        for role in (Role.CLIENT, Role.API, Role.WORKER):
            with pytest.raises(Refused):
                await connect(s.address, **papers.gated(role, "me").get_connection_args())
        (await connect(s.address, **papers.stock(Role.CLIENT, "me").get_connection_args("client"))).abort()  # control


async def test_an_expired_certificate_is_refused_and_a_new_one_is_taken_up_where_it_lies(papers):
    """The worker is not restarted: its next connection shows the new certificate."""
    long_ago = datetime.now(UTC) - timedelta(days=30)
    async with gated_cluster(papers) as (s, _):
        paper = papers.paper(Role.WORKER, "late")
        good = paper.file.read_bytes()
        expired = open_authority(papers.folder, long_ago).issue(Role.WORKER, "late", long_ago)
        paper.save(expired.certificate, expired.key, expired.authority)
        args = GridSecurity(paper, Role.WORKER, s.address).get_connection_args()  # `papers.gated` would renew it
        assert not await _heard(s.address, args)
        paper.file.write_bytes(good)
        assert await _heard(s.address, args)


async def _heard(address, args):
    async with rpc(address, connection_args=args, timeout=2) as one:
        try:
            async with asyncio.timeout(ANSWER):
                return (await one.identity(n_workers=0))["type"] == "GridScheduler"
        except OSError:
            return False


async def test_a_certificate_is_renewed_under_a_worker_that_goes_on(papers):
    async with (
        gated_cluster(papers, "w") as (s, [worker]),
        Client(s.address, security=papers.gated(Role.CLIENT, "me"), asynchronous=True) as client,
    ):
        before = await _shown(worker.address, papers)
        paper = papers.paper(Role.WORKER, "w")
        issued = open_authority(papers.folder, datetime.now(UTC)).issue(Role.WORKER, "w", datetime.now(UTC))
        paper.save(issued.certificate, issued.key, issued.authority)
        after = await _shown(worker.address, papers)
        assert before != after == await _shown(worker.address, papers)
        assert await client.submit(sum, [1, 2]) == 3
        assert list(s.workers) == [worker.address]


async def _shown(address, papers):
    comm = await connect(address, **papers.stock(Role.CLIENT, "me").get_connection_args("client"))
    try:
        return comm.extra_info["peercert"]["serialNumber"]
    finally:
        comm.abort()


def test_security_goes_to_another_process(papers):
    import pickle

    there = pickle.loads(pickle.dumps(papers.gated(Role.WORKER, "w")))
    assert (there.role, there.paper) == (Role.WORKER, papers.paper(Role.WORKER, "w"))
    assert there.get_listen_args()["gate"].own is Role.WORKER


MESSAGES = [
    {"op": "x", "keys": [("a", 1), "b"], "set": {1, 2}, "none": None, "bytes": b"abc", 3: 1.5},
    [{"op": "x"}, {"op": "y"}],
    "OK",
]


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_plain_messages_are_read_as_dask_reads_them(message):
    frames = dumps(message)
    assert decoded(frames) == loads(frames, deserialize=False)


def test_what_is_serialized_stays_closed():
    frames = dumps({"op": "task-erred", "exception": to_serialize(ValueError("x")), "more": [to_serialize(b"y" * 10)]})
    ours, theirs = decoded(frames), loads(frames, deserialize=False)
    assert isinstance(ours["exception"], Serialized)
    assert ours["exception"].header == theirs["exception"].header
    assert ours["exception"].frames == theirs["exception"].frames
    assert ours["more"][0].frames == theirs["more"][0].frames


def test_nothing_is_looked_up_by_name():
    from distributed.core import Status

    with pytest.raises(Refusal, match="__Enum__"):
        decoded(dumps({"op": "x", "status": Status.running}))


@pytest.mark.parametrize("frames", [[b""], [b"\xc1"], [b"\x81\xaa__Pickled_"], []], ids=repr)
def test_garbage_is_refused(frames):
    with pytest.raises(Refusal):
        decoded(frames)


def test_a_header_that_points_nowhere_is_refused():
    import msgpack

    for offset in (7, 0, -1, "x", None, [1]):
        with pytest.raises(Refusal):
            decoded([msgpack.packb({"x": {"__Serialized__": offset}})])

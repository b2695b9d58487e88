"""A whole grid under TLS, as real processes: a donor joins, works, gets a new certificate, and can do nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from distributed import Client
from distributed.core import rpc
from distributed.protocol.pickle import dumps
from distributed.security import Security
from machines import HERE, Agent, Machines, until

from idlegrid.api.grid import Grid
from idlegrid.grid.certificate_files import Paper, open_authority
from idlegrid.grid.config import load_settings
from idlegrid.grid.peers import Peer, Role

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("grid"))
    machines.environment |= {"IDLEGRID_SCHEDULER_TLS": "true"}
    try:
        machines.up()
        yield machines
    finally:
        machines.close()


async def test_a_donor_joins_works_and_is_no_client(machines: Machines) -> None:
    tls = machines.folder / "data" / "idlegrid" / "tls"
    agent = Agent(machines, "donor")
    agent.start("join", machines.url, machines.token(), "--yes", "--region", HERE, IDLEGRID_SCHEDULER_TLS="false")
    status = agent.wait_for("online")
    paper = Paper(agent.home.certificate)
    assert paper.read().peer == Peer(Role.WORKER, status.worker_id)
    assert status.certificate_expires_at == paper.read().expires_at
    assert "certificate good until" in agent.says("status")
    assert not any(status.worker_id in path.name for path in tls.iterdir()), "the grid keeps no donor's key"

    long = machines.submit(value=2, seconds=3)
    agent.wait_for("busy")
    [worker] = agent.workers()
    old = datetime.now(UTC) - timedelta(days=6)
    issued = open_authority(tls, old).issue(Role.WORKER, status.worker_id, old)
    paper.save(issued.certificate, issued.key, issued.authority)
    until(lambda: paper.read().begins_at > old + timedelta(days=1), lambda: machines.said("donor"))
    job = machines.ended(long)
    assert (job["status"], job["worker_id"], job["attempts"]) == ("completed", status.worker_id, 1)
    assert agent.workers() == [worker], "renewed under a process that goes on"

    address = _scheduler(machines)
    evil = Security(
        require_encryption=True,
        tls_ca_file=str(paper.authority),
        **{f"tls_{role}_cert": str(paper.file) for role in ("client", "worker", "scheduler")},
    )
    with pytest.raises(OSError):
        await Client(address, security=evil, asynchronous=True, timeout=10)
    async with rpc(address, connection_args=evil.get_connection_args("client")) as scheduler:
        with pytest.raises(OSError):
            await scheduler.run_function(function=dumps(os.getpid), wait=True)
        with pytest.raises(OSError):
            await scheduler.grid_control(donor="local-0", action="drain")
        assert (await scheduler.grid_control(donor=status.worker_id, action="resume"))["state"] == "online"
    assert "refused: worker" in machines.said("up")

    agent.says("drain", "--wait")
    assert agent.process.wait(60) == 0


def test_a_notebook_finds_its_certificate_or_is_told_which_one_is_missing(machines: Machines, monkeypatch) -> None:
    address = _scheduler(machines)
    elsewhere = machines.folder / "elsewhere"
    monkeypatch.setenv("IDLEGRID_SCHEDULER_TLS_FOLDER", str(elsewhere))
    with pytest.raises(ConnectionError, match=r"client\.pem is missing.*idlegrid admin certificate"):
        Grid(address, settings=load_settings().settings)
    assert not elsewhere.exists(), "who looks for a grid makes no CA"
    made = machines.run("admin", "admin", "certificate", "--out", str(elsewhere), "--name", "ann")
    assert made.wait(60) == 0, machines.said("admin")
    with Grid(address, settings=load_settings().settings) as grid:
        assert grid.submit(sum, [1, 2]).result(timeout=60) == 3
    assert Paper(elsewhere / "client.pem").read().peer == Peer(Role.CLIENT, "ann")


def test_everybody_listens_on_loopback_alone(machines: Machines) -> None:
    """Check A13."""
    everybody = [psutil.Process(one.pid) for one in machines.started if one.poll() is None]
    everybody += [child for one in everybody for child in one.children(recursive=True)]
    places = {
        connection.laddr.ip
        for one in everybody
        for connection in one.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(everybody) >= 5
    assert places
    assert places <= {"127.0.0.1", "::1"}, places


def _scheduler(machines: Machines) -> str:
    line = next(one for one in machines.said("up").splitlines() if one.startswith("scheduler at"))
    address = line.split()[2]
    assert address.startswith("tls://")
    return address

"""The grid is killed under a stream: a worker in the midst of a batch, a record that kills, the scheduler."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
from bulk_helpers import KILLER, HashSpec, cluster, read, vector
from distributed import Client

from idlegrid.pipelines.stream import Stream
from idlegrid.pipelines.stream.flow import StreamOptions
from idlegrid.pipelines.stream.iterator import IteratorSource
from idlegrid.pipelines.stream.parquet_sink import ParquetSink

pytestmark = pytest.mark.slow
PATIENCE = 120.0


def stream(client, records, target, *, batch=10, **spec):
    options = StreamOptions(column="text", batch_records=batch, commit_seconds=0.05)
    return Stream(client, IteratorSource(records, column="text"), HashSpec(**spec), ParquetSink(target), options)


def until(fact):
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_a_worker_that_dies_in_mid_batch_and_a_record_that_kills_cost_no_other_record(tmp_path):
    texts = [KILLER if number == 57 else f"text {number}" for number in range(120)]
    with cluster(workers=2) as client:
        flowing = stream(client, texts, tmp_path, batch=3, seconds_per_row=0.01)
        until(lambda: flowing.status().records)
        pids = client.run(os.getpid)
        busy = next(address for address, keys in client.processing().items() if keys and address in pids)
        os.kill(pids[busy], signal.SIGKILL)
        report = flowing.wait(PATIENCE)
    assert (report.records, report.errors) == (120, 1)
    rows = read(tmp_path)
    assert Counter(rows["text"].to_pylist()) == Counter(texts)
    assert rows["record"].to_pylist() == [f"records:{number}" for number in range(120)], "and their order is kept"
    errors = {row["record"]: row["error"] for row in rows.to_pylist() if row["error"]}
    assert list(errors) == ["records:57"]
    assert "the process that worked on this row died" in errors["records:57"]
    assert rows["embedding"][7].as_py() == vector("text 7").tolist()


@contextmanager
def process(*arguments):
    """A part of a stock Dask grid, on loopback; killed at the end."""
    from pathlib import Path

    helpers = Path(__file__).parent.parent / "bulk"
    env = os.environ | {"PYTHONPATH": str(helpers), "DASK_DISTRIBUTED__WORKER__DAEMON": "false"}
    common = ["--host", "127.0.0.1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen([sys.executable, "-m", *arguments, *common], env=env, **quiet)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_scheduler_that_is_killed_and_started_again_costs_no_record(tmp_path):
    """All that it knew is gone with it, and so are its workers: the same stream, in the same process, goes on."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    texts = [f"text {number}" for number in range(300)]

    def scheduler():
        return process("distributed.cli.dask_scheduler", "--port", str(port))

    def worker():
        return process("distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1")

    with ExitStack() as stack:
        first, tool = stack.enter_context(scheduler()), stack.enter_context(worker())
        client = stack.enter_context(Client(address, timeout=PATIENCE))
        flowing = stream(client, texts, tmp_path, seconds_per_row=0.004)
        until(lambda: flowing.status().records)
        first.kill()
        first.wait()
        assert flowing.status().records < 300
        until(lambda: client.status != "running")
        tool.kill()
        stack.enter_context(scheduler())
        stack.enter_context(worker())
        report = flowing.wait(PATIENCE)
        assert report.records == 300
    assert read(tmp_path)["record"].to_pylist() == [f"records:{number}" for number in range(300)]
    assert read(tmp_path)["text"].to_pylist() == texts

"""A stream's process is killed, again and again: every record is in the sink exactly once."""

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import read, vector
from forked import forking
from valkey_server import valkey  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("STREAM_KILLS", "4"))
"""For each pair of source and sink. 50 were done by hand."""
MANY, FEW = 200 * KILLS + 200, 250
PATIENCE = 90.0
POINTS = ["computed", "part.written", "part.published", "committed", "settled"]


@pytest.fixture(scope="module")
def scheduler():
    """Two workers in this process; the streams are in others."""
    from distributed import LocalCluster

    address = "127.0.0.1:0"
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=address
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def processes():
    """Forked from one that has imported everything."""
    here = Path(__file__).parent
    with forking("stream_process", here, here.parent / "bulk") as processes:
        yield processes


@pytest.fixture
def places(request, tmp_path, valkey):  # noqa: F811
    """Source and sink by their kinds, and how many records the source has."""
    source, sink, records = request.param
    server, client = valkey.url, valkey.client()
    name = tmp_path.name
    if source == "folder":
        (tmp_path / "in").mkdir()
        for first in range(0, records, 250):
            part = pa.table({"text": [f"text {n}" for n in range(first, min(first + 250, records))]})
            pq.write_table(part, tmp_path / "in" / f"{first:06d}.parquet")
        address = str(tmp_path / "in")
    else:
        for number in range(records):
            client.xadd(f"in-{name}", {"text": f"text {number}"})
        address = f"{server}?stream=in-{name}"
    target = f"{server}?stream=out-{name}" if sink == "redis" else str(tmp_path / "out")
    yield (source, address), (sink, target)
    client.close()


def texts_in(sink, valkey):  # noqa: F811
    kind, address = sink
    if kind != "redis":
        rows = read(address)
        assert rows["embedding"].to_pylist()[0] == vector(rows["text"][0].as_py()).tolist()
        return Counter(rows["text"].to_pylist())
    client = valkey.client()
    entries = client.xrange(address.partition("stream=")[2])
    client.close()
    assert json.loads(entries[0][1][b"embedding"]) == vector(entries[0][1][b"text"].decode()).tolist()
    return Counter(fields[b"text"].decode() for _, fields in entries)


def once(records):
    return Counter(f"text {number}" for number in range(records))


def between(*places):
    return pytest.mark.parametrize("places", places, indirect=True, ids=lambda one: f"{one[0]}-to-{one[1]}")


def finish(processes, *arguments, **more):
    """A process that is left alone comes to its end."""
    process = processes.Process(target=target(), args=arguments, kwargs=more)
    process.start()
    process.join(PATIENCE)
    alive = process.is_alive()
    if alive:
        process.kill()
        process.join()
    assert not alive, "the stream did not come to its end"
    return process.exitcode


def target():
    import stream_process

    return stream_process.run


@between(("folder", "parquet", MANY), ("redis", "redis", MANY), ("redis", "parquet", MANY))
def test_killed_at_any_moment(scheduler, processes, places, valkey):  # noqa: F811
    source, sink = places
    moments = random.Random(7)
    killed = 0
    while killed < KILLS:
        process = processes.Process(target=target(), args=(scheduler, source, sink))
        process.start()
        process.join(moments.uniform(0.05, 0.4))
        if process.exitcode == 0:
            break  # it was faster than its fate
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        killed += 1
    assert killed > KILLS // 2
    assert finish(processes, scheduler, source, sink) == 0
    assert texts_in(sink, valkey) == once(MANY)


@between(("redis", "parquet", 500))
def test_killed_at_each_step_of_a_commit(scheduler, processes, places, valkey):  # noqa: F811
    source, sink = places
    for point in POINTS:
        assert finish(processes, scheduler, source, sink, f"stream.{point}") == -signal.SIGKILL
    assert finish(processes, scheduler, source, sink) == 0
    assert texts_in(sink, valkey) == once(500)


@between(("folder", "two writes", FEW))
def test_control_results_and_checkpoint_as_two_writes_repeat_records(scheduler, processes, places, valkey):  # noqa: F811
    source, sink = places
    assert finish(processes, scheduler, source, sink, "stream.part.published") == -signal.SIGKILL
    assert finish(processes, scheduler, source, sink) == 0
    assert texts_in(sink, valkey) != once(FEW)


@between(("redis", "redis", FEW))
def test_entries_are_acknowledged_and_nothing_is_remembered_of_them(scheduler, processes, places, valkey):  # noqa: F811
    source, sink = places
    assert finish(processes, scheduler, source, sink, remembered=0.0) == 0
    client = valkey.client()
    assert client.xpending(source[1].partition("stream=")[2], "idlegrid")["pending"] == 0
    assert client.hlen(f"{sink[1].partition('stream=')[2]}:idlegrid:done") < FEW / 2
    client.close()

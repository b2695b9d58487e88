"""Redis streams on a real server: names, fields that fail, a server that dies, a second process."""

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from bulk_helpers import HashSpec
from valkey_server import ValkeyServer

from idlegrid.pipelines.stream import Overtaken, Stream, StreamError
from idlegrid.pipelines.stream.done import Done, Piece
from idlegrid.pipelines.stream.flow import StreamOptions
from idlegrid.pipelines.stream.iterator import IteratorSource
from idlegrid.pipelines.stream.redis_streams import RedisSink, RedisSource, parse_url
from idlegrid.pipelines.stream.sink import Commit

PATIENCE = 60.0


@pytest.fixture(scope="module")
def server():
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def asks(server):
    client = server.client()
    yield client
    client.close()


def run(client, source, sink, **options):
    chosen = StreamOptions(**{"column": "text", "batch_records": 10, "commit_seconds": 0.02, **options})
    return Stream(client, source, HashSpec(seconds_per_row=0.002), sink, chosen)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://h:1/2?stream=s&group=g", ("redis://h:1/2", "s", {"group": "g"})),
        ("valkeys://u:p@h?stream=s", ("rediss://u:p@h", "s", {})),
        ("unix:///a/socket?stream=s", ("unix:///a/socket", "s", {})),
    ],
)
def test_a_url_names_server_and_stream(url, found):
    assert parse_url(url) == found


def test_a_url_without_a_stream_is_refused_without_its_password():
    with pytest.raises(StreamError, match=r"^redis://h names no stream") as error:
        parse_url("redis://user:secret@h")
    assert "secret" not in str(error.value)


def test_nobody_answers(tmp_path):
    with pytest.raises(StreamError, match="no Redis answers"):
        RedisSource(f"unix://{tmp_path}/nobody?stream=s", column="text")


@pytest.mark.slow
def test_entries_that_can_not_be_read_come_out_with_their_error(client, server, asks):
    asks.xadd("odd", {"text": "fine"})
    asks.xadd("odd", {"text": b"\xff\xfe"})
    asks.xadd("odd", {"other": "x"})
    rows = list(run(client, RedisSource(f"{server.url}?stream=odd", column="text", endless=False), None))
    assert [row["error"] for row in rows] == [
        None,
        "invalid UTF-8: invalid start byte at byte 0",
        "the entry has no field 'text'",
    ]
    assert rows[0]["record"] == f"{rows[0]['entry']}:0"


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_loses_and_repeats_nothing(client):
    with ValkeyServer() as own:
        asks = own.client()
        for number in range(400):
            asks.xadd("in", {"text": f"text {number}"})
        source = RedisSource(f"{own.url}?stream=in", column="text", endless=False)
        stream = run(client, source, RedisSink(f"{own.url}?stream=out"))
        deadline = time.monotonic() + PATIENCE
        while stream.status().records < 50:
            assert time.monotonic() < deadline, stream.status()
            threading.Event().wait(0.01)
        own.kill()
        assert stream.status().state == "running"
        own.start()
        stream.wait(PATIENCE)
        found = Counter(fields[b"text"].decode() for _, fields in asks.xrange("out"))
        asks.close()
    assert found == Counter(f"text {number}" for number in range(400))


@pytest.mark.slow
def test_a_second_process_is_overtaken(server):
    sinks = [RedisSink(f"{server.url}?stream=one-only") for _ in range(2)]
    commits = [Commit(1, token, (Piece("a", 0, 1),)) for token in ("first", "second")]
    import pyarrow as pa

    rows = pa.table({"text": ["x"], "embedding": [[1.0, 2.0]]})
    sinks[0].open({"type": "t"}, {})
    sinks[0].commit(commits[0], rows, Done({"a": [(0, 1)]}))
    sinks[0].commit(commits[0], rows, Done({"a": [(0, 1)]}))  # its answer got lost: the same again changes nothing
    with pytest.raises(Overtaken, match="another process"):
        sinks[1].commit(commits[1], rows, Done({"a": [(0, 1)]}))
    client = server.client()
    assert [json.loads(fields[b"embedding"]) for _, fields in client.xrange("one-only")] == [[1.0, 2.0]]
    client.close()
    assert sinks[1].open({"type": "t"}, {}).done == Done({"a": [(0, 1)]})
    with pytest.raises(StreamError, match="holds another stream"):
        sinks[1].open({"type": "u"}, {})
    for sink in sinks:
        sink.close()


@pytest.mark.slow
def test_old_entries_make_way(client, server, asks):
    sink = RedisSink(f"{server.url}?stream=short&maxlen=100")
    run(client, IteratorSource([f"text {n}" for n in range(600)], column="text"), sink).wait(PATIENCE)
    assert asks.xlen("short") < 600


@pytest.mark.slow
def test_the_backlog_is_known(server, asks):
    source = RedisSource(f"{server.url}?stream=waiting", column="text")
    before = time.time()
    for number in range(3):
        asks.xadd("waiting", {"text": str(number)})
    backlog = source.backlog()
    assert backlog.records == 3
    assert abs(backlog.oldest - before) < PATIENCE
    source.close()


def test_what_was_acknowledged_is_remembered_for_a_while(server, asks, monkeypatch):
    """A source that dies may forget the last second of acknowledgements, and gives those entries again."""
    source = RedisSource(f"{server.url}?stream=acknowledged", column="text")
    pieces = [Piece(asks.xadd("acknowledged", {"text": str(n)}).decode(), 0, 1) for n in range(3)]
    next(source.batches(Done(), 10, threading.Event()))
    assert source.settled(pieces[:2]) == []
    assert asks.xpending("acknowledged", "idlegrid")["pending"] == 1
    held = Done({piece.partition: [(0, 1)] for piece in pieces})
    assert not source.gone(held)
    monkeypatch.setattr("idlegrid.pipelines.stream.redis_streams.REMEMBERED", 0.0)
    assert source.settled(pieces[2:]) == [piece.partition for piece in pieces]
    source.close()


def test_acknowledgements_that_failed_are_made_up_for():
    with ValkeyServer() as own:
        asks = own.client()
        source = RedisSource(f"{own.url}?stream=in", column="text")
        pieces = [Piece(asks.xadd("in", {"text": str(n)}).decode(), 0, 1) for n in range(2)]
        next(source.batches(Done(), 10, threading.Event()))
        own.kill()
        assert source.settled(pieces[:1]) == ()
        own.start()
        source.settled(pieces[1:])
        assert asks.xpending("in", "idlegrid")["pending"] == 0
        source.close()
        asks.close()


def test_entries_may_be_recordings(server, asks):
    asks.xadd("sound", {"audio": b"RIFF\xff\xfe"})
    source = RedisSource(f"{server.url}?stream=sound", column="audio", text=False)
    batch = next(source.batches(Done(), 10, threading.Event()))
    assert batch.rows["audio"].to_pylist() == [b"RIFF\xff\xfe"]
    assert not batch.refused
    source.close()


def test_instants_and_bytes_in_lists_can_be_kept(server, asks):
    import pyarrow as pa

    sink = RedisSink(f"{server.url}?stream=kinds")
    rows = pa.table({"at": [datetime(2026, 11, 21, 10, 0, tzinfo=UTC)], "parts": [[b"\xff"]]})
    sink.open({"type": "t"}, {})
    sink.commit(Commit(1, "mine", (Piece("a", 0, 1),)), rows, Done({"a": [(0, 1)]}))
    ((_, fields),) = asks.xrange("kinds")
    assert json.loads(fields[b"at"]) == "2026-11-21T10:00:00+00:00"
    assert json.loads(fields[b"parts"]) == ["/w=="]
    sink.close()

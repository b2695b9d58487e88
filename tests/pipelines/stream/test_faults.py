"""What goes wrong around a stream: folders that go away, zombies that wake, sources that hang, listeners that raise."""

import errno
import threading
import time
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import HashSpec, read

from idlegrid.pipelines.bulk.watch import Patience
from idlegrid.pipelines.stream import Overtaken, Stream, StreamError, StreamStopped
from idlegrid.pipelines.stream import log as logs
from idlegrid.pipelines.stream.absences import Absences
from idlegrid.pipelines.stream.callback import CallbackSink
from idlegrid.pipelines.stream.done import Done, Piece
from idlegrid.pipelines.stream.flights import Flights
from idlegrid.pipelines.stream.flow import StreamOptions
from idlegrid.pipelines.stream.folder import FolderSource, ParquetRows
from idlegrid.pipelines.stream.iterator import IteratorSource
from idlegrid.pipelines.stream.parquet_sink import ParquetSink
from idlegrid.pipelines.stream.reading import Reader
from idlegrid.pipelines.stream.sink import Commit
from idlegrid.pipelines.stream.source import Batch

PATIENCE = 60.0


def stream(client, source, sink=None, spec=None, **more):
    options = StreamOptions(**{"column": "text", "batch_records": 10, "commit_seconds": 0.05, **more})
    return Stream(client, source, spec or HashSpec(), sink, options)


def texts(number):
    return [f"text {one}" for one in range(number)]


def until(fact):
    deadline = time.monotonic() + PATIENCE
    while not fact():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


# ---- stopping


class Hangs(IteratorSource):
    """A source that does not come back, as a file system that hangs."""

    def __init__(self):
        super().__init__([], column="text")
        self.inside, self.gate = threading.Event(), threading.Event()

    def batches(self, done, most, stopped):
        self.inside.set()
        self.gate.wait(PATIENCE)
        yield None


def test_a_stream_that_is_stopped_does_not_wait_for_a_source_that_hangs(client, monkeypatch):
    monkeypatch.setattr("idlegrid.pipelines.stream.flow.SOURCE_PATIENCE", 0.1)
    source = Hangs()
    flowing = stream(client, source)
    source.inside.wait(PATIENCE)
    flowing.stop()
    assert flowing.wait(PATIENCE / 2).stopped
    source.gate.set()


def test_a_stream_that_waits_for_its_first_worker_can_be_stopped():
    from distributed import Client, LocalCluster

    address = "127.0.0.1:0"
    with LocalCluster(n_workers=0, processes=False, dashboard_address=address) as cluster, Client(cluster) as client:
        heard = threading.Event()
        options = StreamOptions(column="text", patience=Patience(worker=None))
        source = IteratorSource(["a"], column="text")
        flowing = Stream(client, source, HashSpec(), None, options, listen=lambda now: heard.set())
        assert heard.wait(PATIENCE)
        flowing.stop()
        with pytest.raises(StreamStopped, match="nothing was read"):
            flowing.wait(PATIENCE)


def test_ctrl_c_does_not_wait_for_what_is_under_way(client):
    gate = threading.Event()

    def held(rows):
        gate.wait(PATIENCE)

    with pytest.raises(KeyboardInterrupt), stream(client, IteratorSource(texts(5), column="text"), CallbackSink(held)):
        raise KeyboardInterrupt
    gate.set()  # nobody came past here while the sink held it


# ---- zombies


def test_a_zombie_adds_nothing_where_parts_were_taken_away(client, tmp_path, monkeypatch):
    """Frozen before its second commit; its successor came past a snapshot, whose parts somebody has moved away."""
    monkeypatch.setattr(logs, "SNAPSHOT_EVERY", 4)
    gate, got = threading.Event(), []

    def held():
        yield from texts(10)
        gate.wait(PATIENCE)
        yield from texts(60)[10:]

    frozen = stream(client, IteratorSource(held(), column="text"), ParquetSink(tmp_path))
    until(lambda: frozen.status().records == 10)
    one_by_one = {"in_flight": 1, "commit_seconds": 0.01}
    stream(client, IteratorSource(texts(60), column="text"), ParquetSink(tmp_path), **one_by_one).wait(PATIENCE)
    for part in sorted(tmp_path.glob("part-*"))[:4]:
        got += pq.read_table(part)["record"].to_pylist()
        part.unlink()
    gate.set()
    with pytest.raises(Overtaken, match="another process"):
        frozen.wait(PATIENCE)
    got += read(tmp_path)["record"].to_pylist()
    assert sorted(got) == sorted(f"records:{number}" for number in range(60))


def test_who_was_frozen_while_it_wrote_takes_its_part_away_again(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "SNAPSHOT_EVERY", 2)
    sink = ParquetSink(tmp_path)
    sink.open({"type": "t"}, {})
    publish = type(sink._target).publish

    def frozen(target, scratch, name):
        target.create("_snapshot-000000000002.json", b'{"number": 2, "records": 2, "done": {}}')  # a successor's
        return publish(target, scratch, name)

    monkeypatch.setattr(type(sink._target), "publish", frozen)
    monkeypatch.setattr(type(sink._target), "create", lambda target, name, data: (target.root / name).write_bytes(data))
    with pytest.raises(Overtaken, match="taken away"):
        sink.commit(Commit(1, "mine", (Piece("a", 0, 1),)), pa.table({"text": ["x"]}), Done({"a": [(0, 1)]}))
    assert not list(tmp_path.glob("part-*"))


def test_a_snapshot_that_a_dead_process_did_not_write_is_written_by_the_next(client, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "SNAPSHOT_EVERY", 3)
    stream(client, IteratorSource(texts(60), column="text"), ParquetSink(tmp_path), in_flight=1).wait(PATIENCE)
    written = sorted(path.name for path in tmp_path.glob("_snapshot-*"))
    for path in tmp_path.glob("_snapshot-*"):
        path.unlink()
    state = ParquetSink(tmp_path).open({}, {})
    assert sorted(path.name for path in tmp_path.glob("_snapshot-*")) == written
    assert state == ParquetSink(tmp_path).open({}, {})


def test_in_any_order_and_stopped_a_restart_still_gives_each_once(client, tmp_path):
    flowing = stream(
        client,
        IteratorSource(({"text": text} for text in texts(200)), column="text"),
        ParquetSink(tmp_path),
        HashSpec(seconds_per_row=0.002),
        ordered=False,
        commit_seconds=0.01,
    )
    until(lambda: flowing.status().records >= 20)
    flowing.stop()
    first = flowing.wait(PATIENCE)
    assert first.records < 200
    source = IteratorSource(({"text": text} for text in texts(200)), column="text")
    stream(client, source, ParquetSink(tmp_path), HashSpec(seconds_per_row=0.002), ordered=False).wait(PATIENCE)
    assert sorted(read(tmp_path)["text"].to_pylist()) == sorted(texts(200))


# ---- folders


def test_what_is_away_is_forgotten_only_after_long():
    absences = Absences(10)
    assert absences.for_long({"a", "b"}, 0) == set()
    assert absences.for_long({"a"}, 6) == set()
    assert absences.for_long({"a", "b"}, 11) == {"a"}, "b was there in between"


def test_a_folder_that_looks_empty_for_a_while_loses_no_memory(client, tmp_path):
    """As a mount that goes: what was read from it is not read again when it comes back."""
    inbox, hidden = tmp_path / "in", tmp_path / "hidden"
    inbox.mkdir()
    pq.write_table(pa.table({"text": texts(5)}), inbox / "a.parquet")
    source = FolderSource(inbox, ParquetRows("text"))
    done = Done({"a.parquet": [(0, 5)]})
    (inbox / "a.parquet").rename(hidden)
    assert source.gone(done) == set()
    hidden.rename(inbox / "a.parquet")
    assert source.gone(done) == set()


def test_a_folder_that_can_not_be_read_for_a_while_ends_no_stream(client, tmp_path, monkeypatch):
    monkeypatch.setattr("idlegrid.pipelines.stream.folder.POLL", 0.02)
    inbox = tmp_path / "in"
    inbox.mkdir()
    pq.write_table(pa.table({"text": texts(5)}), inbox / "a.parquet")
    source = FolderSource(inbox, ParquetRows("text"), endless=False)
    real, failures = source._list, iter([OSError(errno.EIO, "input/output error")] * 3)

    def sometimes():
        if (failure := next(failures, None)) is not None:
            raise failure
        return real()

    monkeypatch.setattr(source, "_list", sometimes)
    assert stream(client, source, ParquetSink(tmp_path / "out")).wait(PATIENCE).records == 5


# ---- records


def test_columns_that_only_later_records_have_are_refused_not_dropped(client):
    rows = [{"text": "a"}, {"text": "b", "extra": 1}]
    with pytest.raises(StreamError, match="has columns that the first one has not: extra"):
        list(stream(client, IteratorSource(rows, column="text")))


def test_a_restart_finds_the_columns_of_the_first_record(client, tmp_path):
    rows = [{"text": f"text {n}", "score": 0.5 if n == 0 else n} for n in range(20)]
    stream(client, IteratorSource(rows[:10], column="text"), ParquetSink(tmp_path)).wait(PATIENCE)
    stream(client, IteratorSource(rows, column="text"), ParquetSink(tmp_path)).wait(PATIENCE)
    assert read(tmp_path)["score"].to_pylist() == [row["score"] for row in rows]


class TwoSchemas(IteratorSource):
    def batches(self, done, most, stopped):
        for number, name in enumerate(("id", "name")):
            rows = pa.RecordBatch.from_pydict({name: [number], "text": ["x"]})
            yield Batch(rows, (Piece("p", number, number + 1),), time.time())


def test_a_source_that_changes_its_columns_is_told_so(client):
    with pytest.raises(StreamError, match="p:1 on have other columns"):
        list(stream(client, TwoSchemas([], column="text")))


def test_large_records_are_bounded_by_their_bytes(client):
    """As recordings: few are under way, though many batches may be."""
    given = []

    def recordings():
        for number in count():
            given.append(number)
            yield b"x" * 100_000

    with stream(
        client, IteratorSource(recordings(), column="text"), in_flight=1000, in_flight_bytes=300_000
    ) as flowing:
        next(iter(flowing))
        seen = -1
        while seen != len(given):  # until it stands still
            seen = len(given)
            threading.Event().wait(0.5)
        assert flowing.status().in_flight <= 4
        assert len(given) < 150


def test_the_reader_takes_one_batch_at_least_however_large():
    rows = pa.RecordBatch.from_pydict({"text": ["x" * 1000]})
    batches = [Batch(rows, (Piece("p", number, number + 1),), 0.0) for number in range(3)]

    class Three(IteratorSource):
        def batches(self, done, most, stopped):
            yield from batches

    taken = []
    reader = Reader(Three([], column="text"), Done(), most=1, permits=9, most_bytes=10, take=taken.append)
    for number, batch in enumerate(batches):
        until(lambda number=number: len(taken) == number + 1)
        reader.give_back(batch)
    assert reader.join(PATIENCE)
    assert taken == [*batches, None]


# ---- who listens, and who looks


def test_a_listener_that_raises_ends_no_stream(client):
    def listen(now):
        raise RuntimeError("I do not care")

    options = StreamOptions(column="text", batch_records=10, commit_seconds=0.02)
    flowing = Stream(client, IteratorSource(texts(5), column="text"), HashSpec(), None, options, listen=listen)
    flowing._say("something")
    assert len(list(flowing)) == 5


def test_a_note_that_can_not_be_written_calls_nobody_again(client, tmp_path, monkeypatch):
    got, sink = [], None
    sink = CallbackSink(got.extend, tmp_path)
    real, failures = type(sink._log.target).create, iter([OSError(errno.ENOSPC, "no space left on device")] * 2)

    def sometimes(target, name, data):
        if name.startswith("commit-") and (failure := next(failures, None)) is not None:
            raise failure
        return real(target, name, data)

    monkeypatch.setattr(type(sink._log.target), "create", sometimes)
    stream(client, IteratorSource(texts(5), column="text"), sink).wait(PATIENCE)
    assert len(got) == 5


def test_a_status_while_batches_come_and_go():
    """Asked from another thread: nothing is iterated that changes."""
    flights, stopped, errors = Flights(ordered=True), threading.Event(), []
    rows = pa.RecordBatch.from_pydict({"text": ["x"]})

    def ask():
        while not stopped.is_set():
            try:
                _ = flights.oldest
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for number in range(3000):
        flight = flights.add(Batch(rows, (Piece("p", number, number + 1),), float(number)))
        if number > 50:
            flights.remove([flights._flights[flight.number - 50]])
    stopped.set()
    thread.join()
    assert not errors

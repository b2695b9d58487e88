"""Whole streams on a small cluster: every record once, in order or not, bounded, and on from where it was."""

import asyncio
import threading
import time
from itertools import count, islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import RAISER, HashSpec, read, vector

from idlegrid.pipelines.stream import Overtaken, Stream, StreamError
from idlegrid.pipelines.stream.callback import CallbackSink
from idlegrid.pipelines.stream.flow import StreamOptions
from idlegrid.pipelines.stream.folder import FolderSource, ParquetRows, WholeFiles
from idlegrid.pipelines.stream.iterator import IteratorSource
from idlegrid.pipelines.stream.parquet_sink import ParquetSink

PATIENCE = 60.0


def options(**more):
    return StreamOptions(**{"column": "text", "batch_records": 10, "commit_seconds": 0.05, **more})


def stream(client, source, sink=None, spec=None, **more):
    return Stream(client, source, spec or HashSpec(), sink, options(**more))


def texts(number):
    return [f"text {one}" for one in range(number)]


def names_of(target):
    return sorted(read(target)["record"].to_pylist(), key=lambda name: int(name.rpartition(":")[2]))


def test_results_come_in_order_with_their_records(client):
    with stream(client, IteratorSource(texts(95), column="text")) as flowing:
        rows = list(flowing)
    assert [row["text"] for row in rows] == texts(95)
    assert [row["record"] for row in rows] == [f"records:{number}" for number in range(95)]
    assert rows[7]["embedding"] == vector("text 7").tolist()
    assert {row["error"] for row in rows} == {None}


def test_as_completed_gives_the_same_rows(client):
    with stream(client, IteratorSource(texts(95), column="text"), ordered=False) as flowing:
        rows = list(flowing)
    assert sorted(row["text"] for row in rows) == sorted(texts(95))


def test_an_asynchronous_iterator_with_rows(client):
    async def rows():
        for number in range(25):
            await asyncio.sleep(0)
            yield {"id": number, "text": f"text {number}"}

    with stream(client, IteratorSource(rows(), column="text")) as flowing:
        assert [row["id"] for row in flowing] == list(range(25))


def test_nobody_reads_further_ahead_than_allowed(client):
    """The consumer stops taking, so the source is asked no more."""
    taken = []

    def endless():
        for number in count():
            taken.append(number)
            yield f"text {number}"

    with stream(client, IteratorSource(endless(), column="text"), in_flight=3, commit_records=10) as flowing:
        first = list(islice(flowing, 5))
        deadline = time.monotonic() + PATIENCE
        seen = -1
        while seen != len(taken) and time.monotonic() < deadline:  # until it stands still
            seen = len(taken)
            threading.Event().wait(0.5)
        assert len(first) == 5
        assert len(taken) <= 200  # its queue (2 batches), what is under way (3), what waits to be taken
        assert flowing.status().in_flight <= 3


def test_a_stream_goes_on_where_it_was(client, tmp_path):
    target = tmp_path / "out"
    first = stream(client, IteratorSource(islice(texts(100), 40), column="text"), ParquetSink(target)).wait(PATIENCE)
    assert (first.records, first.records_total) == (40, 40)
    second = stream(client, IteratorSource(texts(100), column="text"), ParquetSink(target)).wait(PATIENCE)
    assert (second.records, second.records_total) == (60, 100)
    assert names_of(target) == [f"records:{number}" for number in range(100)]


def test_another_stream_is_kept_out(client, tmp_path):
    stream(client, IteratorSource(texts(5), column="text"), ParquetSink(tmp_path)).wait(PATIENCE)
    other = stream(client, IteratorSource(texts(5), column="text", name="others"), ParquetSink(tmp_path))
    with pytest.raises(StreamError, match="holds another stream"):
        other.wait(PATIENCE)


def test_a_folder_of_somebody_else_is_no_sink(client, tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(StreamError, match=r"thesis\.doc"):
        stream(client, IteratorSource(texts(5), column="text"), ParquetSink(tmp_path)).wait(PATIENCE)


def test_of_two_processes_one_is_overtaken(client, tmp_path):
    """A frozen process wakes: what it had read was done by its successor, and it can add nothing."""
    gate = threading.Event()

    def held():
        yield from texts(20)
        gate.wait(PATIENCE)
        yield from [f"text {number}" for number in range(20, 40)]

    frozen = stream(client, IteratorSource(held(), column="text"), ParquetSink(tmp_path))
    deadline = time.monotonic() + PATIENCE
    while frozen.status().records < 20 and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    stream(client, IteratorSource(texts(40), column="text"), ParquetSink(tmp_path)).wait(PATIENCE)
    gate.set()
    with pytest.raises(Overtaken, match="another process"):
        frozen.wait(PATIENCE)
    assert names_of(tmp_path) == [f"records:{number}" for number in range(40)]


def test_a_bad_record_comes_out_with_its_error(client):
    rows = texts(30)
    rows[13] = RAISER
    with stream(client, IteratorSource(rows, column="text")) as flowing:
        errors = {row["record"]: row["error"] for row in flowing if row["error"]}
    assert list(errors) == ["records:13"]
    assert "cannot digest" in errors["records:13"]


def test_what_the_source_raises_is_raised_after_what_it_gave(client, tmp_path):
    def failing():
        yield from texts(12)
        raise OSError("the tap is dry")

    with pytest.raises(OSError, match="the tap is dry"):
        stream(client, IteratorSource(failing(), column="text"), ParquetSink(tmp_path)).wait(PATIENCE)
    assert len(read(tmp_path)) == 12


@pytest.mark.parametrize("bad", [7, {"other": "x"}], ids=["number", "other columns"])
def test_a_record_that_fits_not_is_named(client, bad):
    flowing = stream(client, IteratorSource([*texts(20), bad], column="text"))
    with pytest.raises(StreamError, match="record 20"):
        list(flowing)


def test_a_watched_folder_of_parquet(client, tmp_path):
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()

    def add(name, first, rows):
        part = pa.table({"id": range(first, first + rows), "text": [f"text {n}" for n in range(first, first + rows)]})
        pq.write_table(part, inbox / f".{name}", row_group_size=7)
        (inbox / f".{name}").rename(inbox / name)

    add("a.parquet", 0, 25)
    flowing = stream(client, FolderSource(inbox, ParquetRows("text")), ParquetSink(outbox))
    wait_for(flowing, 25)
    add("b.parquet", 25, 30)
    wait_for(flowing, 55)
    (inbox / "a.parquet").unlink()
    flowing.stop()
    assert flowing.wait(PATIENCE).stopped
    add("c.parquet", 55, 5)
    stream(client, FolderSource(inbox, ParquetRows("text"), endless=False), ParquetSink(outbox)).wait(PATIENCE)
    assert read(outbox)["id"].to_pylist() == list(range(60))


def wait_for(flowing, records):
    deadline = time.monotonic() + PATIENCE
    while flowing.status().records < records:
        assert time.monotonic() < deadline, flowing.status()
        assert flowing.status().state in {"starting", "running"}, flowing.wait(0)
        threading.Event().wait(0.02)


def test_a_torn_file_is_left_out_and_the_others_are_not(client, tmp_path, monkeypatch):
    monkeypatch.setattr("idlegrid.pipelines.stream.folder.SETTLE", 0.1)
    monkeypatch.setattr("idlegrid.pipelines.stream.folder.POLL", 0.05)
    inbox = tmp_path / "in"
    inbox.mkdir()
    (inbox / "a-torn.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(pa.table({"text": texts(5)}), inbox / "b.parquet")
    source = FolderSource(inbox, ParquetRows("text"), endless=False)
    report = stream(client, source, ParquetSink(tmp_path / "out")).wait(PATIENCE)
    assert report.records == 5
    assert "a-torn.parquet" in source.broken["a-torn.parquet"]


def test_whole_files_are_records(client, tmp_path, monkeypatch):
    monkeypatch.setattr("idlegrid.pipelines.stream.folder.POLL", 0.05)
    inbox = tmp_path / "in"
    inbox.mkdir()
    for name in ("one.txt", "two.txt"):
        (inbox / name).write_text(f"this is {name}")
    rows = list(stream(client, FolderSource(inbox, WholeFiles("text", (".txt",), text=True), endless=False)))
    assert sorted(row["record"] for row in rows) == ["one.txt:0", "two.txt:0"]
    assert rows[0]["embedding"] == vector(rows[0]["text"]).tolist()


def test_a_callback_gets_every_row_and_its_checkpoint_keeps_it_from_more(client, tmp_path):
    got = []
    for number in (30, 50):
        sink = CallbackSink(got.extend, tmp_path)
        stream(client, IteratorSource(texts(number), column="text"), sink).wait(PATIENCE)
    assert [row["record"] for row in got] == [f"records:{number}" for number in range(50)]


def test_an_asynchronous_callback(client):
    got = []

    async def take(rows):
        await asyncio.sleep(0)
        got.extend(rows)

    stream(client, IteratorSource(texts(5), column="text"), CallbackSink(take)).wait(PATIENCE)
    assert len(got) == 5


def test_what_a_callback_raises_ends_the_stream(client):
    def fail(rows):
        raise RuntimeError("no, thanks")

    with pytest.raises(RuntimeError, match="no, thanks"):
        stream(client, IteratorSource(texts(5), column="text"), CallbackSink(fail)).wait(PATIENCE)


def test_a_column_that_is_not_there_is_named(client):
    with pytest.raises(StreamError, match="no column 'text', but body"):
        list(stream(client, IteratorSource([{"body": "x"}], column="text")))


def test_snapshots_shorten_the_way_back(client, tmp_path, monkeypatch):
    monkeypatch.setattr("idlegrid.pipelines.stream.log.SNAPSHOT_EVERY", 3)
    stream(client, IteratorSource(texts(80), column="text"), ParquetSink(tmp_path), in_flight=1).wait(PATIENCE)
    snapshots = sorted(path.name for path in tmp_path.glob("_snapshot-*"))
    assert snapshots
    covered = int(snapshots[-1].removeprefix("_snapshot-").removesuffix(".json"))
    for part in sorted(tmp_path.glob("part-*"))[: covered - 1]:
        part.unlink()  # somebody took them away, which is fine
    report = stream(client, IteratorSource(texts(90), column="text"), ParquetSink(tmp_path)).wait(PATIENCE)
    assert (report.records, report.records_total) == (10, 90)

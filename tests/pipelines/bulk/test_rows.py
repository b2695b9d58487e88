import datetime
import decimal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import HashSpec, table, write
from hypothesis import given, settings
from hypothesis import strategies as st

from idlegrid.pipelines.bulk.cutting import Span
from idlegrid.pipelines.bulk.errors import CorruptInput
from idlegrid.pipelines.bulk.part import PartWriter
from idlegrid.pipelines.bulk.rows import FIRST_WINDOW_ROWS, WINDOW_ROWS, decoded_bytes, distinct, pieces, read_windows
from idlegrid.pipelines.bulk.schema import output_schema
from idlegrid.pipelines.bulk.source import resolve, survey
from idlegrid.pipelines.bulk.window import compute, prepare


def windows(path, start=0, stop=None):
    storage, _, (name,) = resolve(path, None)
    found = survey(storage, name, "text")
    return list(read_windows(storage, found.file, Span(0, start, found.file.rows if stop is None else stop, 0.0)))


def rows_of(found, schema):
    batches = [piece for window in found for batch in window.batches for piece in pieces(batch, schema, 10**9)]
    return pa.Table.from_batches(batches, schema)


def through(path, out):
    """Source → windows → operator → part, without Dask."""
    operator = HashSpec().load()
    schema = output_schema(pq.read_schema(path), operator.fields, "error")
    writer = PartWriter(out, schema)
    for window in windows(path):
        writer.add(compute(prepare(window, "text", operator, {}), operator))
    writer.finish(
        job="j",
        part="p",
        source=str(path),
        source_footer="",
        row_start=0,
        row_stop=writer.rows,
        seconds=0.0,
        facts={},
        options={},
        attempt="a",
        worker="w",
    )
    return pq.read_table(out)


EVERY_KIND = {
    "int": pa.array([1, None, 3] * 100, pa.int16()),
    "float": pa.array([1.5, None, float("nan")] * 100, pa.float64()),
    "bool": pa.array([True, None, False] * 100),
    "decimal": pa.array([decimal.Decimal("1.23"), None, decimal.Decimal("4.56")] * 100, pa.decimal128(30, 2)),
    "moment": pa.array(
        [datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), None, None] * 100, pa.timestamp("us", "UTC")
    ),
    "day": pa.array([datetime.date(2024, 2, 29), None, None] * 100),
    "binary": pa.array([b"\xff\x00", None, b""] * 100),
    "fixed": pa.array([b"abcd", None, b"efgh"] * 100, pa.binary(4)),
    "large": pa.array(["long", None, "longer"] * 100, pa.large_string()),
    "view": pa.array(["seen", None, "a view of more than twelve bytes"] * 100, pa.string_view()),
    "category": pa.array(["a", None, "b"] * 100).dictionary_encode(),
    "ordered": pa.DictionaryArray.from_arrays(pa.array([1, None, 0] * 100, pa.int8()), ["lo", "hi"], ordered=True),
    "numbers": pa.array([[1, 2], None, []] * 100),
    "words": pa.array([["a", "b"], None, ["c", None]] * 100),
    "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}] * 100),
    "file": pa.array([{"bytes": b"\x00 sound", "path": "a"}, None, {"bytes": None, "path": "b"}] * 100),
    "map": pa.array([[("k", "v")], None, []] * 100, pa.map_(pa.string(), pa.string())),
    "vector": pa.array([[1.0, 2.0], None, [3.0, 4.0]] * 100, pa.list_(pa.float32(), 2)),
    "deep": pa.array([[{"a": ["x"]}], None, []] * 100),
    "null": pa.nulls(300),
    "dotted.name": pa.array(["d", None, "e"] * 100),
}


@pytest.mark.parametrize("dictionary", [True, False])
def test_every_kind_of_column_comes_out_as_it_went_in(tmp_path, dictionary):
    fields = [pa.field("text", pa.string(), nullable=False, metadata={"unit": "words"})]
    fields += [pa.field(name, array.type) for name, array in EVERY_KIND.items()]
    schema = pa.schema(fields, {"made by": "a test"})
    source = pa.Table.from_arrays([pa.array(["a", "b", "c"] * 100), *EVERY_KIND.values()], schema=schema)
    path = write(tmp_path / "a.parquet", source, use_dictionary=dictionary, row_group_size=70)
    before, after = pq.read_table(path), through(path, tmp_path / "out.parquet")
    for name in before.column_names:
        assert after.schema.field(name).equals(before.schema.field(name), check_metadata=True), name
        assert after[name].to_pylist() == before[name].to_pylist() or name == "float", name
    assert str(after["float"].to_pylist()) == str(before["float"].to_pylist())
    assert after.schema.metadata[b"made by"] == b"a test"
    assert after.column_names == [*before.column_names, "embedding", "error"]


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 2000), group=st.integers(1, 700), data=st.data())
def test_any_run_of_rows_is_read_exactly(tmp_path_factory, rows, group, data):
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start, rows))
    source = table(rows)
    path = write(tmp_path_factory.mktemp("rows") / "a.parquet", source, row_group_size=group)
    found = windows(path, start, stop)
    assert rows_of(found, pq.read_schema(path)).to_pylist() == source.slice(start, stop - start).to_pylist()
    position = start
    for window in found:
        assert window.start == position
        position += window.rows


def test_windows_grow_and_stay_bounded(tmp_path):
    path = write(tmp_path / "a.parquet", table(20_000))
    sizes = [window.rows for window in windows(path)]
    assert sizes[0] == FIRST_WINDOW_ROWS
    assert max(sizes) == WINDOW_ROWS
    assert sizes == [window.rows for window in windows(path)], "a second attempt computes the same windows"


def test_a_flipped_bit_in_any_page_is_found(tmp_path):
    """B5: one bit in each of 20 pages, of data and of dictionaries, 20 errors."""
    path = write(tmp_path / "a.parquet", table(4000), row_group_size=1000, compression="none")
    good, metadata = path.read_bytes(), pq.read_metadata(path)
    flips = 0
    for group in range(metadata.num_row_groups):
        for leaf in range(5):
            chunk = metadata.row_group(group).column(leaf)
            first = chunk.dictionary_page_offset or chunk.data_page_offset
            in_dictionary = flips % 2 == 1 and first < chunk.data_page_offset
            end_of_page = chunk.data_page_offset if in_dictionary else first + chunk.total_compressed_size
            flipped = bytearray(good)
            flipped[end_of_page - 2] ^= 1 << (flips % 8)
            path.write_bytes(flipped)
            with pytest.raises(CorruptInput, match=rf"a.parquet, row group {group}: .*CRC checksum"):
                windows(path)
            flips += 1
    assert flips == 20
    path.write_bytes(good)
    assert sum(window.rows for window in windows(path)) == 4000


def test_without_checksums_the_same_flip_is_silent(tmp_path):
    """The control: what the source's writer did not protect can't be found out, and the guide says so."""
    path = write(
        tmp_path / "a.parquet", pa.table({"text": ["aaaa"] * 10}), compression="none", write_page_checksum=False
    )
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"aaaa", b"aaba", 1))
    assert rows_of(windows(path), pq.read_schema(path))["text"].to_pylist() == ["aaba"] * 10


def test_decoded_bytes_sees_through_dictionaries():
    array = pa.array(["x" * 1000] * 50 + [None]).dictionary_encode()
    assert decoded_bytes(array) == 50 * 1000 + 4 * 51
    assert decoded_bytes(pa.ListArray.from_arrays([0, 51], array)) > 50_000
    assert decoded_bytes(pa.array([None, None], pa.dictionary(pa.int32(), pa.string()))) == 0


def test_pieces_are_bounded_and_complete():
    schema = pa.schema([("text", pa.string())])
    array = pa.array(["x" * 1000, "y" * 1000] * 64).dictionary_encode()
    batch = pa.RecordBatch.from_arrays([array], names=["text"])
    found = list(pieces(batch, schema, 10_000))
    assert max(piece.nbytes for piece in found) <= 10_100
    assert pa.Table.from_batches(found)["text"].to_pylist() == array.to_pylist()


def test_distinct_texts_of_mixed_columns():
    columns = [
        pa.array(["a", None, "b"]),
        pa.array(["b", "c"], pa.large_string()),
        pa.array(["a", "unused", "d"]).dictionary_encode().slice(2),
        pa.array(["a"], pa.string_view()),
    ]
    values, indices = distinct(columns)
    texts = [value.as_py().decode() for value in values]
    assert sorted(texts) == ["a", "b", "c", "d"]
    assert [None if i is None else texts[i] for i in indices.to_pylist()] == ["a", None, "b", "b", "c", "d", "a"]


def test_rows_left_out_are_null_and_so_are_texts_that_only_they_had():
    values, indices = distinct(
        [pa.array(["a", "b"], pa.string_view()), pa.array(["a", "c"]).dictionary_encode()], {1, 2}
    )
    assert [value.as_py() for value in values] == [b"a", b"c"]
    assert indices.to_pylist() == [0, None, None, 1]


BOMB = """
import sys, threading, time
import psutil, pyarrow as pa, pyarrow.parquet as pq
sys.path.insert(0, {folder!r})
import test_rows
from pathlib import Path
me, peak, done = psutil.Process(), [0], threading.Event()
def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], me.memory_info().rss)
test_rows.through(Path({warm!r}), Path({warm!r} + ".out"))
before = me.memory_info().rss
threading.Thread(target=watch).start()
if {control}:
    rows = len(pq.ParquetFile({path!r}).read())
else:
    rows = test_rows.bomb_through(Path({path!r}), Path({path!r} + ".out"))
done.set()
print(rows, (peak[0] - before) // 2**20)
"""


def bomb_through(path, out):
    """As `through`, without reading the output back in one piece."""
    import unittest.mock

    with unittest.mock.patch.object(pq, "read_table", pq.read_metadata):
        return through(path, out).num_rows


def explode(tmp_path, path, *, control):
    warm = write(tmp_path / "warm.parquet", table(1000))
    script = BOMB.format(folder=str(Path(__file__).parent), warm=str(warm), path=str(path), control=control)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rows, grown = map(int, found.stdout.split())
    return rows, grown


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["few large values", "many small values", "other columns", "lists"])
def test_a_bomb_is_streamed_in_bounded_memory(tmp_path, kind):
    """B6: under 1 MB on disk, 1.6 GB decoded; the process grows by less than 256 MB."""
    large = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 1000, pa.int32()), ["x" * 800_000, "y" * 800_000])
    small = pa.DictionaryArray.from_arrays(pa.array([0] * 1_600_000, pa.int32()), ["z" * 1000])
    source = {
        "few large values": {"text": large},
        "many small values": {"text": small},
        "other columns": {"text": pa.array(["short"] * 2000), "blob": large},
        "lists": {"text": pa.array(["short"] * 200), "l": pa.ListArray.from_arrays(range(0, 2001, 10), large)},
    }[kind]
    path = write(tmp_path / "bomb.parquet", pa.table(source), compression="zstd")
    assert path.stat().st_size < 1_000_000
    rows, grown = explode(tmp_path, path, control=False)
    assert rows == len(source["text"])
    assert grown <= 256, f"grew by {grown} MiB"


@pytest.mark.slow
def test_control_the_bomb_explodes_when_it_is_read_whole(tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 800, pa.int32()), ["x" * 800_000])
    path = write(tmp_path / "bomb.parquet", pa.table({"text": texts.dictionary_decode()}))
    assert path.stat().st_size < 1_000_000
    assert explode(tmp_path, path, control=True)[1] > 500

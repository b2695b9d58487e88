import hashlib
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import HashSpec, table

from idlegrid.pipelines.bulk.errors import TargetError
from idlegrid.pipelines.bulk.part import KEY, PartWriter, read_facts
from idlegrid.pipelines.bulk.rows import Window
from idlegrid.pipelines.bulk.schema import output_schema
from idlegrid.pipelines.bulk.target import LocalTarget
from idlegrid.pipelines.bulk.window import compute, prepare

OPERATOR = HashSpec().load()
FACTS = {
    "job": "j",
    "part": "p",
    "source": "s",
    "source_footer": "f",
    "row_start": 0,
    "row_stop": 100,
    "seconds": 0.5,
    "facts": {"model": "m"},
    "options": {},
    "attempt": "a",
    "worker": "w",
}


def make(path, rows, metadata=None):
    schema = output_schema(rows.schema.with_metadata(metadata), OPERATOR.fields, "error")
    writer = PartWriter(path, schema)
    window = Window(0, tuple(rows.replace_schema_metadata(metadata).to_batches()))
    writer.add(compute(prepare(window, "text", OPERATOR, {}), OPERATOR))
    return writer.finish(**FACTS)


def test_a_part_says_what_it_is(tmp_path):
    made = make(tmp_path / "p.parquet", table(100))
    found, size, footer = read_facts(LocalTarget(tmp_path), "p.parquet")
    assert found == made
    assert (found.rows, found.errors, found.facts) == (100, 0, {"model": "m"})
    assert size == (tmp_path / "p.parquet").stat().st_size
    raw = (tmp_path / "p.parquet").read_bytes()
    length = struct.unpack("<I", raw[-8:-4])[0] + 8
    assert footer == hashlib.sha256(raw[-length:]).hexdigest()
    assert found.data_sha256 == hashlib.sha256(raw[:-length]).hexdigest(), "footer and data hash cover every byte"


def test_encodings_compression_and_checksums(tmp_path):
    make(tmp_path / "p.parquet", table(100))
    group = pq.read_metadata(tmp_path / "p.parquet").row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    vector = chunks["embedding.list.element"]
    assert "BYTE_STREAM_SPLIT" in vector.encodings
    assert not vector.has_dictionary_page
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    assert chunks["text"].is_stats_set
    raw = bytearray((tmp_path / "p.parquet").read_bytes())
    raw[vector.data_page_offset + vector.total_compressed_size - 9] ^= 1
    (tmp_path / "p.parquet").write_bytes(raw)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(tmp_path / "p.parquet", page_checksum_verification=True)


def test_an_earlier_jobs_provenance_is_not_taken_for_ones_own(tmp_path):
    made = make(tmp_path / "p.parquet", table(100), {KEY.decode(): "another job's", "kept": "yes"})
    assert read_facts(LocalTarget(tmp_path), "p.parquet")[0] == made
    assert pq.read_schema(tmp_path / "p.parquet").metadata[b"kept"] == b"yes"


def test_a_writer_that_is_given_up_leaves_no_complete_file(tmp_path):
    schema = output_schema(table(1).schema, OPERATOR.fields, "error")
    writer = PartWriter(tmp_path / "p.parquet", schema)
    writer.abandon()
    writer.abandon()
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(tmp_path / "p.parquet")


def test_what_is_no_part_is_told(tmp_path):
    pq.write_table(table(3), tmp_path / "p.parquet")
    with pytest.raises(TargetError, match=r"p.parquet was not written by this program"):
        read_facts(LocalTarget(tmp_path), "p.parquet")
    (tmp_path / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-20])
    with pytest.raises(TargetError, match=r"torn .*Remove it and run the same job again"):
        read_facts(LocalTarget(tmp_path), "p.parquet")

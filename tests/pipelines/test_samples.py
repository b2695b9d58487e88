"""Real text that every machine has."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from idlegrid.pipelines.samples import docstrings, sentences, write_parquet

pytestmark = pytest.mark.slow


def test_docstrings_are_many_real_and_different():
    found = docstrings(300)
    assert len(found) == 300
    assert len({text for _, text in found}) == 300
    assert all(len(text) >= 20 and name for name, text in found)
    assert docstrings(20) == found[:20]


def test_sentences_are_one_line_each():
    found = sentences(200)
    assert len({text for _, text in found}) == 200
    assert not any("\n" in text for _, text in found)


def test_a_parquet_file_of_them(tmp_path):
    rows = sentences(50)
    path = tmp_path / "deeper" / "in.parquet"
    write_parquet(path, rows, row_group_size=20)
    table = pq.read_table(path)
    assert table.column_names == ["id", "name", "text"]
    assert table["id"].to_pylist() == list(range(50))
    assert table["text"].to_pylist() == [text for _, text in rows]
    assert pq.ParquetFile(path).metadata.num_row_groups == 3


def test_a_parquet_file_of_nothing(tmp_path):
    write_parquet(tmp_path / "in.parquet", [])
    assert pq.read_table(tmp_path / "in.parquet").num_rows == 0

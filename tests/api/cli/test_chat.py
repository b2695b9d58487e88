"""`idlegrid chat`."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def source(tmp_path):
    pq.write_table(pa.table({"prompt": [f"What is {row} plus 1?" for row in range(30)]}), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


@pytest.mark.parametrize("words", [(), ("--prompt-column", "a", "--messages-column", "b")])
def test_one_column_is_to_be_named(idlegrid, source, tmp_path, words):
    done = idlegrid("chat", source, tmp_path / "out", *words)
    assert done.code == 2
    assert "either --prompt-column or --messages-column" in done.err


@pytest.mark.slow
def test_chat_again_and_as_json(idlegrid, grid, source, tmp_path, language_model):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "integer", "minimum": 0, "maximum": 9}))
    words = ("chat", source, tmp_path / "out", "-c", "prompt", "-m", language_model.folder, "-s", grid.address)
    words += ("--max-tokens", "8", "--json-schema", schema, "--system", "Be brief")
    done = idlegrid(*words)
    assert done.code == 0, done.err
    assert done.out.startswith("30 rows in ")
    table = pq.read_table(tmp_path / "out")
    assert set(table["error"].to_pylist()) == {None}
    assert table.num_rows == 30
    again = idlegrid(*words, "--json").json
    assert again["reused_parts"] == again["parts"] > 0
    assert again["facts"]["backend"] == "torch"
    other = idlegrid(*words, "--seed", "9")
    assert (other.code, "seed: 0 → 9" in other.err) == (1, True)

"""`idlegrid transcribe`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_whisper import as_file, tone


@pytest.mark.slow
def test_transcribe_again_and_as_json(idlegrid, grid, tmp_path, tiny_whisper):
    audio = [as_file(tone(0.6 + 0.2 * seed, seed=seed)) for seed in range(4)] + [b"no sound"]
    pq.write_table(pa.table({"id": range(5), "audio": audio}), tmp_path / "in.parquet")
    words = ("transcribe", tmp_path / "in.parquet", tmp_path / "out", "--audio-column", "audio", "--words")
    words += ("-m", tiny_whisper.folder, "-s", grid.address, "--language", "en")
    done = idlegrid(*words)
    assert done.code == 0, done.err
    assert done.out.startswith("5 rows in ")
    assert ", 1 with an error" in done.out
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert [row["duration"] for row in rows] == [0.6, 0.8, 1.0, 1.2, None]
    assert {row["language"] for row in rows} == {"en", None}
    assert all(row["words"] is not None for row in rows[:4])
    again = idlegrid(*words, "--json").json
    assert again["reused_parts"] == again["parts"] > 0
    assert again["facts"]["engine"] == "transformers"
    other = idlegrid(*words[:-1], "de")
    assert (other.code, "language: en → de" in other.err) == (1, True)


def test_the_column_must_be_named(idlegrid, tmp_path):
    done = idlegrid("transcribe", tmp_path, tmp_path / "out")
    assert done.code == 2
    assert "--audio-column" in done.err

"""Bulk transcription: recordings in any form, rows that are none, kills in between."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import arm, cluster, read
from tiny_whisper import as_file, silence, tone

from idlegrid.actors.whisper.model import WhisperModel
from idlegrid.actors.whisper.speech import Wish
from idlegrid.pipelines.bulk import InputError, transcribe_parquet
from idlegrid.pipelines.bulk.transcribe import TranscribeSpec

pytestmark = pytest.mark.slow
CLIPS = [tone(2.5, seed=1), np.concatenate([tone(2), silence(0.5), tone(1.5, seed=2)]), tone(0.8, seed=3)]
FILES = [as_file(clip, kind) for clip, kind in zip(CLIPS, ("flac", "flac", "wav"), strict=True)]


@pytest.fixture(scope="module")
def heard(tiny_whisper):
    """What the model says to each file by itself."""
    from idlegrid.actors.media.audio import decode_audio

    model = WhisperModel(str(tiny_whisper.folder))
    return [model.transcribe([decode_audio(file).samples], Wish())[0] for file in FILES]


def write(folder, values, kind=None):
    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": range(len(values)), "audio": pa.array(values, kind)}), path, row_group_size=4)
    return path


def test_bytes_paths_and_structs_say_the_same(client, tiny_whisper, tmp_path, heard):
    paths = []
    for index, file in enumerate(FILES):
        paths.append(str(tmp_path / f"{index}.audio"))
        (tmp_path / f"{index}.audio").write_bytes(file)
    ways = {
        "bytes": (FILES, pa.binary()),
        "paths": ([paths[0], f"file://{paths[1]}", paths[2]], pa.string()),
        "structs": (
            [{"bytes": file, "path": None} for file in FILES],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
    }
    for name, (values, kind) in ways.items():
        folder = tmp_path / name
        folder.mkdir()
        report = transcribe_parquet(
            client, write(folder, values, kind), folder / "out", audio_column="audio", model=str(tiny_whisper.folder)
        )
        assert (report.rows, report.errors) == (3, 0)
        rows = read(folder / "out").to_pylist()
        assert [row["text"] for row in rows] == [one.text for one in heard]
        assert [row["language"] for row in rows] == [one.language for one in heard]
        assert [row["duration"] for row in rows] == [2.5, 4.0, 0.8]
        assert [len(row["segments"]) for row in rows] == [len(one.segments) for one in heard]
        first = heard[0].segments[0]
        assert rows[0]["segments"][0] == {"start": first.start, "end": first.end, "text": first.text}
        assert rows[1]["audio"] == values[1]


def test_a_row_that_is_no_recording_says_why(client, tiny_whisper, tmp_path, heard):
    values = [FILES[0], b"no sound", None, b"", FILES[2][:30], FILES[2]]
    report = transcribe_parquet(
        client,
        write(tmp_path, values, pa.binary()),
        tmp_path / "out",
        audio_column="audio",
        model=str(tiny_whisper.folder),
        words=True,
        prefix="heard_",
    )
    rows = read(tmp_path / "out").to_pylist()
    assert report.errors == 4
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, True]
    assert "no sound of a known format" in rows[1]["error"]
    assert rows[5]["heard_text"] == heard[2].text
    assert rows[0]["heard_words"][0]["start"] >= 0
    assert [rows[index]["heard_segments"] for index in (1, 2, 3, 4)] == [None] * 4


def test_a_path_that_is_not_there_is_that_rows_error(client, tiny_whisper, tmp_path):
    source = write(tmp_path, [str(tmp_path / "gone.wav"), "nowhere://x"], pa.string())
    transcribe_parquet(client, source, tmp_path / "out", audio_column="audio", model=str(tiny_whisper.folder))
    errors = [row["error"] for row in read(tmp_path / "out").to_pylist()]
    assert "gone.wav can't be read: FileNotFoundError" in errors[0]
    assert "nowhere://x can't be read: ValueError" in errors[1]


def test_what_can_not_work_is_told_before_anything_runs(client, tmp_path):
    for values, kind, what in (([1], pa.int64(), "recordings are bytes"), ([["a"]], None, "recordings are bytes")):
        with pytest.raises(InputError, match=what):
            transcribe_parquet(client, write(tmp_path, values, kind), tmp_path / "out", audio_column="audio")
    with pytest.raises(InputError, match="no column 'sound'"):
        transcribe_parquet(client, tmp_path / "in.parquet", tmp_path / "out", audio_column="sound")


def test_credentials_of_a_storage_are_written_nowhere(client, tiny_whisper, tmp_path):
    spec = TranscribeSpec(model="m", storage={"key": "hush"})
    assert "hush" not in repr(spec)
    assert "hush" not in str(spec.options)


def test_a_worker_that_is_killed_loses_and_doubles_nothing(tiny_whisper, tmp_path, heard):
    """The only worker dies in the middle of a unit; then the driver stops, and the job goes on."""
    source = write(tmp_path, [FILES[index % 3] for index in range(12)], pa.binary())
    options = {"audio_column": "audio", "model": str(tiny_whisper.folder), "unit_rows": 3}
    with cluster(workers=1) as grid:
        victims = grid.run(os.getpid)
        grid.run(arm, "bulk.unit.computed")

        def stop_once(look):
            if look.units == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            transcribe_parquet(grid, source, tmp_path / "out", on_progress=stop_once, **options)
        report = transcribe_parquet(grid, source, tmp_path / "out", **options)
        assert not set(victims.values()) & set(grid.run(os.getpid).values()), "nobody was killed"
    assert (report.rows, report.errors) == (12, 0)
    assert report.reused_parts >= 2
    rows = read(tmp_path / "out").to_pylist()
    assert [row["id"] for row in rows] == list(range(12))
    assert [row["text"] for row in rows] == [heard[index % 3].text for index in range(12)]

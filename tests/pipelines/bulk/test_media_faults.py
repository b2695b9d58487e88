"""Recordings in a column of bytes: rows that are none, one that kills, flipped bits, bombs (B4 to B6).

What is the same code for texts is tested there (test_faults.py, test_rows.py); here is what a file in a cell adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import cluster, read
from sound_helpers import KILLER, SoundSpec, windows
from tiny_whisper import as_file, tone

from idlegrid.pipelines.bulk import BulkJob, JobIncomplete
from idlegrid.pipelines.bulk.attempts import KILLED
from idlegrid.pipelines.bulk.errors import CorruptInput

pytestmark = pytest.mark.slow
BROKEN = b"RIFF but no sound"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MB = 1024 * 1024


def write(path, files, kind=None, **options):
    rows = pa.table({"id": range(len(files)), "audio": pa.array(files, kind)})
    pq.write_table(rows, path, write_page_checksum=True, **options)
    return path


def job(source, target, **options):
    return BulkJob(spec=SoundSpec(), source=source, target=target, column="audio", **options)


def test_bad_recordings_are_listed_and_one_that_kills_is_found(tmp_path):
    """B4: of 4,096 recordings one in a hundred is broken, and one kills every process that touches it."""
    bad = set(range(50, 4096, 100))
    sounds = [as_file(tone(0.01, seed=seed)) for seed in range(7)]
    files = [BROKEN if row in bad else sounds[row % 7] for row in range(4096)]
    files[4094] = KILLER
    source = write(tmp_path / "in.parquet", files)
    told = []
    with cluster(workers=2) as grid:
        report = job(source, tmp_path / "out", unit_rows=4096).run(grid, told.append)
    found = read(tmp_path / "out").to_pylist()
    assert {row for row, one in enumerate(found) if one["error"]} == bad | {4094}
    assert {row for row, one in enumerate(found) if one["samples"] != 160} == bad | {4094}
    assert found[4094]["error"] == KILLED
    assert all("broken" in found[row]["error"] or "no sound" in found[row]["error"] for row in bad)
    assert report.errors == len(bad) + 1
    assert sum("trying rows" in one.notice for one in told) <= 24


@pytest.mark.parametrize("kind", [pa.binary(), STRUCT], ids=["bytes", "struct"])
def test_a_flipped_bit_in_a_recording_is_never_silent(client, tmp_path, kind):
    """B5: one bit in the files of each of 20 pages, and each is told; the job says which file and row group."""
    files = [os.urandom(5000) for _ in range(80)]
    values = files if kind == pa.binary() else [{"bytes": one, "path": None} for one in files]
    options = {"row_group_size": 4, "use_dictionary": False, "compression": "none"}
    path = write(tmp_path / "in.parquet", values, kind, **options)
    good = path.read_bytes()
    for number in range(20):
        flipped = bytearray(good)
        flipped[good.index(files[4 * number]) + 7] ^= 1 << number % 8
        path.write_bytes(flipped)
        with pytest.raises(CorruptInput, match=rf"in.parquet, row group {number}: .*CRC checksum"):
            list(windows(path))
    with pytest.raises(JobIncomplete, match=r"corrupt input in .*in.parquet, row group 19"):
        job(path, tmp_path / "out", unit_rows=40).run(client)
    path.write_bytes(good)
    assert job(path, tmp_path / "out", unit_rows=40).run(client).rows == 80


BOMB = """
import sys, threading
sys.path[:0] = {folders!r}
import psutil, pyarrow.parquet as pq
import sound_helpers as here
me, peak, done = psutil.Process(), [0], threading.Event()
def watch():
    while not done.wait(0.005):
        peak[0] = max(peak[0], me.memory_info().rss)
here.through({warm!r})
before = me.memory_info().rss
threading.Thread(target=watch).start()
rows = here.through({path!r}) if not {control} else len(pq.read_table({path!r}).combine_chunks())
done.set()
print(rows, (peak[0] - before) // 2**20)
"""


def explode(tmp_path, values, *, control):
    """Rows, and by how many MB a process grew over them."""
    path = write(tmp_path / "bomb.parquet", values, compression="zstd", store_schema=False)
    assert path.stat().st_size < MB
    warm = write(tmp_path / "warm.parquet", values[:1])
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    script = BOMB.format(folders=folders, warm=str(warm), path=str(path), control=control)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return tuple(map(int, found.stdout.split()))


def bomb(rows, kind):
    """Two silent recordings of 0.8 MB, over and over; in Parquet a dictionary and indices."""
    quiet = [as_file(tone(25) * 0 + level) for level in (0, 0.5)]
    files = pa.DictionaryArray.from_arrays(pa.array([row % 2 for row in range(rows)], pa.int32()), quiet)
    if kind == "bytes":
        return files
    return pa.StructArray.from_arrays([files, pa.nulls(rows, pa.string())], ["bytes", "path"])


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_a_bomb_of_recordings_is_streamed_in_bounded_memory(tmp_path, kind):
    """B6: less than 1 MB in Parquet, 1.6 GB of files."""
    rows, grown = explode(tmp_path, bomb(2000, kind), control=False)
    assert rows == 2000
    assert grown <= 256, f"grew by {grown} MB"


def test_control_a_bomb_that_is_read_whole_explodes(tmp_path):
    assert explode(tmp_path, bomb(800, "bytes"), control=True)[1] > 500

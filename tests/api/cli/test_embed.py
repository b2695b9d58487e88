"""`idlegrid embed` on real text, with real processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading

import pyarrow.parquet as pq
import pytest

from idlegrid.pipelines.samples import sentences, write_parquet

ROWS = 600


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "in.parquet"
    write_parquet(path, sentences(ROWS), row_group_size=50)
    return path


def test_a_job_on_a_named_grid_takes_no_shape(idlegrid, source, tmp_path):
    words = ("embed", source, tmp_path / "out", "-c", "text", "-s", "tcp://127.0.0.1:1", "--workers", "2")
    done = idlegrid(*words)
    assert done.code == 2
    assert "--workers and --region shape a grid that is started here" in done.err


def test_an_option_that_is_no_pair(idlegrid, source, tmp_path):
    done = idlegrid("embed", source, tmp_path / "out", "-c", "text", "--storage-option", "secret")
    assert done.code == 2
    assert "KEY=VALUE" in done.err


@pytest.mark.slow
def test_embed_again_and_as_json(idlegrid, grid, source, tmp_path):
    words = ("embed", source, tmp_path / "out", "--column", "text", "--scheduler", grid.address)
    plan = idlegrid(*words, "--dry-run")
    assert plan.code == 0
    assert f"{ROWS} rows of 1 file with sentence-transformers/all-MiniLM-L6-v2" in plan.out
    assert "nothing was written" in plan.out
    assert not (tmp_path / "out").exists()

    done = idlegrid(*words)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{ROWS} rows in ")
    table = pq.read_table(tmp_path / "out")
    assert table["text"].to_pylist() == pq.read_table(source)["text"].to_pylist()
    assert set(table["error"].to_pylist()) == {None}

    again = idlegrid(*words, "--json").json
    assert again["reused_parts"] == again["parts"] > 0
    assert again["facts"]["dimension"] == 384


@pytest.mark.slow
def test_a_job_that_can_not_be_done_is_one_line(idlegrid, grid, source, tmp_path):
    done = idlegrid("embed", source, tmp_path / "out", "-c", "txt", "-s", grid.address)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert "txt" in done.err
    assert "text" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(idlegrid, grid, source, tmp_path):
    """In a terminal, where the bar is drawn, on a grid of its own."""
    words = ["embed", source, tmp_path / "out", "-c", "text", "--model", "minilm", "--dtype", "float32"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "idlegrid.api.cli", *map(str, words), "--workers", "1"],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        cwd=tmp_path,
        start_new_session=True,
        # a shell lets what it starts with & ignore Ctrl-C, and this is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    screen, drawn = [], threading.Event()

    def read():
        while True:
            try:
                screen.append(os.read(ours, 4096).decode(errors="replace"))
            except OSError:
                return
            if "rows/s" in "".join(screen):
                drawn.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert drawn.wait(90), "".join(screen)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process in front
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)
        reader.join(10)
        os.close(ours)
    said = "".join(screen)
    assert "embedding" in said
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    done = idlegrid(*words, "-s", grid.address)
    assert done.code == 0, done.err
    assert pq.read_table(tmp_path / "out").num_rows == ROWS

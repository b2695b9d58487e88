"""Endless sources through a grid of real workers, by Python and by the command line."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idlegrid.api import Grid
from idlegrid.api.stream_metrics import metrics_at
from idlegrid.pipelines.stream import StreamError

pytestmark = pytest.mark.slow
PATIENCE = 90.0


@pytest.fixture(scope="module")
def grid():
    with Grid(workers=2) as grid:
        yield grid


def test_vectors_of_an_iterator_are_those_of_embed(grid):
    texts = [f"a sentence with the number {number}" for number in range(100)]
    rows = list(grid.stream(texts, "embedding", commit_seconds=0.1))
    assert [row["text"] for row in rows] == texts
    alone = grid.embed(texts[:3]).result(PATIENCE)
    np.testing.assert_allclose([row["embedding"] for row in rows[:3]], alone, atol=1e-5)


def test_a_language_model_answers_a_stream(grid, language_model):
    options = {"model": str(language_model.folder), "max_tokens": 5, "temperature": 0.0}
    rows = list(grid.stream(["Hello", "Hello"], "llm", **options))
    assert rows[0]["response"] == rows[1]["response"] == grid.chat("Hello", **options).result(PATIENCE).text


def test_what_can_not_be_streamed_is_said_at_once(grid, tmp_path):
    with pytest.raises(StreamError, match=r"can't be streamed.*Did you mean 'embedding'"):
        grid.stream([], "embeding")
    with pytest.raises(StreamError, match="no folder"):
        grid.stream(tmp_path / "nowhere", "embedding")
    with pytest.raises(StreamError, match="dimension"):
        grid.stream([], "embedding", dimension=3)


def test_metrics_tell_how_far_it_is(grid):
    gate = threading.Event()

    def slow():
        yield "one"
        gate.wait(PATIENCE)

    with grid.stream(slow(), "embedding", into=lambda rows: None, commit_seconds=0.05) as stream:
        with metrics_at(stream, 0) as port:
            deadline = time.monotonic() + PATIENCE
            text = ""
            while "idlegrid_stream_records_total 1.0" not in text:
                assert time.monotonic() < deadline, text
                text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        assert "idlegrid_stream_lag_seconds 0.0" in text
        gate.set()


def test_the_command_watches_a_folder_until_it_is_told_to_stop(grid, tmp_path):
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    inbox.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), inbox / "a.parquet")
    command = [sys.executable, "-m", "idlegrid.api.cli", "stream", "embedding", inbox, outbox]
    options = ["--scheduler", grid.address, "--commit-seconds", "0.05", "--json"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not list(outbox.glob("part-*")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert json.loads(out)["records"] == 2
    assert json.loads(out)["stopped"] is True
    assert "finishing what was read" in err

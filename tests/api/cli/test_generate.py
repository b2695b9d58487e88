"""`idlegrid generate` and `idlegrid caption`: drawn, then looked at."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from tiny_diffusion import PROMPTS

from idlegrid.api.cli import progress
from idlegrid.pipelines.bulk import drive, generate, pulse


@pytest.fixture
def near():
    """The address of a stock cluster inside of this process: nobody has to import diffusers twice."""
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with LocalCluster(**options, processes=False, protocol="tcp") as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_a_picture_that_takes_long_is_told_and_followed_step_by_step(idlegrid, near, tmp_path, tiny_sd, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(pulse, "EVERY", 0.0)
    monkeypatch.setattr(drive, "POLL", 0.01)  # these pictures take a third of a second
    monkeypatch.setattr(generate, "LONG_PICTURE", 0.0001)
    pq.write_table(pa.table({"prompt": PROMPTS[:2]}), tmp_path / "in.parquet")
    words = ("generate", tmp_path / "in.parquet", tmp_path / "drawn", "-c", "prompt", "-m", tiny_sd, "-s", near)
    done = idlegrid(*words, "--size", "32x24", "--steps", 40)
    assert done.code == 0, done.err
    assert "tries two steps of 32x24" in done.err
    assert "one picture of 32x24 in 40 steps takes a worker (cpu" in done.err
    steps = re.findall(r"^[01]/2 rows \((?:1 more, )?step (\d+)/40\)", done.err, re.MULTILINE)
    assert steps, done.err


@pytest.mark.slow
def test_what_was_drawn_is_looked_at(idlegrid, near, tmp_path, tiny_sd, tiny_llava):
    pq.write_table(pa.table({"id": range(4), "prompt": [*PROMPTS[:3], None]}), tmp_path / "in.parquet")
    words = ("generate", tmp_path / "in.parquet", tmp_path / "drawn", "--prompt-column", "prompt", "-m", tiny_sd)
    words += ("--size", "32x24", "--steps", 2, "--files", tmp_path / "pictures", "-s", near)
    done = idlegrid(*words)
    assert done.code == 0, done.err
    assert done.out.startswith("4 rows in ")
    assert ", 1 with an error" in done.out
    again = idlegrid(*words, "--json").json
    assert again["reused_parts"] == again["parts"] > 0
    assert again["facts"]["pipeline"] == "StableDiffusionPipeline"
    other = idlegrid(*words, "--seed", 1)
    assert (other.code, "seed: 0 → 1" in other.err) == (1, True)

    words = ("caption", tmp_path / "drawn", tmp_path / "seen", "--image-column", "image", "-m", tiny_llava.folder)
    words += ("--prefix", "seen_", "--error-column", "unseen", "--max-tokens", 4, "-s", near)
    done = idlegrid(*words)
    assert done.code == 0, done.err
    rows = pq.read_table(tmp_path / "seen").to_pylist()
    assert [row["seen_completion_tokens"] for row in rows] == [4, 4, 4, None]
    assert [row["unseen"] is None for row in rows] == [True] * 3 + [False]


def test_what_is_wrong_is_told_before_a_grid_is_started(idlegrid, tmp_path):
    done = idlegrid("generate", tmp_path, tmp_path / "out")
    assert (done.code, "--prompt-column" in done.err) == (2, True)
    done = idlegrid("generate", tmp_path, tmp_path / "out", "-c", "prompt", "--size", "large")
    assert (done.code, "is no size" in done.err) == (2, True)
    done = idlegrid("caption", tmp_path, tmp_path / "out", "-c", "image", "--ocr", "--question", "why?")
    assert (done.code, "--question" in done.err) == (2, True)

"""Bulk image generation: pictures in the column or as files, and rows that can't be drawn."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import read
from PIL import Image
from tiny_diffusion import PROMPTS

from idlegrid.actors.diffusion.model import DiffusionModel
from idlegrid.actors.diffusion.picture import Wish, refusal
from idlegrid.actors.diffusion.resident import diffusion_model
from idlegrid.pipelines.bulk import GenerateSpec, InputError, generate_parquet

pytestmark = pytest.mark.slow
SIZE = {"width": 32, "height": 24, "steps": 2}


def write(folder, prompts):
    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": range(len(prompts)), "prompt": pa.array(prompts, pa.string())}), path)
    return path


def draw(client, source, target, model, **options):
    return generate_parquet(client, source, target, prompt_column="prompt", model=str(model), **SIZE | options)


def pixels(data):
    return np.asarray(Image.open(BytesIO(data)))


def test_each_row_has_its_picture_and_its_seed(client, tiny_sd, tmp_path):
    prompts = [PROMPTS[0], PROMPTS[0], None, "", PROMPTS[1], "x" * 10_001]
    report = draw(client, write(tmp_path, prompts), tmp_path / "out", tiny_sd, prefix="drawn_")
    assert (report.rows, report.errors) == (6, 3)
    rows = read(tmp_path / "out").to_pylist()
    assert [row["prompt"] for row in rows] == prompts
    assert [row["error"] is None for row in rows] == [True, True, False, False, True, False]
    assert "null" in rows[2]["error"]
    assert "1 to 10,000 characters, not 10,001" in rows[5]["error"]
    good = [row for row in rows if row["drawn_image"] is not None]
    assert len({row["drawn_image"] for row in good}) == len({row["drawn_seed"] for row in good}) == 3
    wishes = [Wish(prompt=row["prompt"], seed=row["drawn_seed"], **SIZE) for row in good]
    for row, alone in zip(good, DiffusionModel(str(tiny_sd)).draw(wishes), strict=True):
        assert np.array_equal(pixels(row["drawn_image"]), alone.pixels)


def test_pictures_as_files(client, tiny_sd, tmp_path):
    source, files = write(tmp_path, list(PROMPTS)), tmp_path / "pictures"
    draw(client, source, tmp_path / "out", tiny_sd, files=files)
    rows = read(tmp_path / "out").to_pylist()
    assert [Path(row["image"]).name[:9] for row in rows] == [f"{number:08d}-" for number in range(4)]
    assert all(pixels(Path(row["image"]).read_bytes()).shape == (24, 32, 3) for row in rows)
    draw(client, source, tmp_path / "again", tiny_sd, files=files)
    assert read(tmp_path / "again").to_pylist() == rows
    assert len([path for path in files.iterdir() if path.suffix == ".png"]) == 4, "the same pictures, not more"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"width": 33}, "width"),
        ({"width": 4096, "height": 4096}, "more than 4,194,304 pixels"),
        ({"model": "flux-schnell", "negative_prompt": "a dog"}, "negative_prompt"),
    ],
)
def test_what_no_picture_can_have_is_refused_first(options, what):
    with pytest.raises(InputError, match=what):
        GenerateSpec(**{"model": "some/model", **options})


def test_what_this_model_can_not_draw_is_refused_before_any_row(client, tiny_sd, tmp_path, monkeypatch):
    facts = DiffusionModel(str(tiny_sd)).facts
    assert refusal(Wish(prompt="any", width=1024, height=1024), facts) is None
    monkeypatch.setattr(diffusion_model(str(tiny_sd)), "facts", replace(facts, max_pixels=500))
    with pytest.raises(InputError, match=r"a worker can't use .*: 32 × 24 is more than the 500 pixels"):
        draw(client, write(tmp_path, list(PROMPTS)), tmp_path / "out", tiny_sd)
    assert not list(tmp_path.glob("out/part-*"))


def test_credentials_of_a_storage_are_written_nowhere():
    spec = GenerateSpec(model="m", files="s3://bucket/pictures", storage={"key": "hush"})
    assert "hush" not in repr(spec)
    assert "hush" not in str(spec.options)

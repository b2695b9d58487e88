"""Bulk vision: pictures in any form, and rows that are none."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_helpers import read
from tiny_llava import as_png, scene

from idlegrid.actors.vision.look import PROMPTS
from idlegrid.pipelines.bulk import CaptionSpec, InputError, caption_parquet

pytestmark = pytest.mark.slow
NEW = 8
SCENES = [scene(seed) for seed in range(3)]
FILES = [as_png(one) for one in SCENES]


def write(folder, values, kind=None):
    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": range(len(values)), "picture": pa.array(values, kind)}), path)
    return path


def look(client, source, target, model, **options):
    return caption_parquet(
        client, source, target, image_column="picture", model=str(model.folder), max_tokens=NEW, **options
    )


@pytest.mark.parametrize("way", ["bytes", "paths", "structs"])
def test_bytes_paths_and_structs_say_what_transformers_says(client, tiny_llava, tmp_path, way):
    paths = []
    for index, file in enumerate(FILES):
        paths.append(str(tmp_path / f"{index}.png"))
        (tmp_path / f"{index}.png").write_bytes(file)
    structs = [{"bytes": file, "path": None} for file in FILES]
    values = {"bytes": FILES, "paths": [paths[0], f"file://{paths[1]}", paths[2]], "structs": structs}[way]
    report = look(client, write(tmp_path, values), tmp_path / "out", tiny_llava)
    assert (report.rows, report.errors) == (3, 0)
    rows = read(tmp_path / "out").to_pylist()
    expected = [tiny_llava.answer(tiny_llava.asked(PROMPTS["image_caption"]), [one], NEW) for one in SCENES]
    assert [row["response"] for row in rows] == expected
    assert all(row["completion_tokens"] <= NEW < row["prompt_tokens"] for row in rows)
    assert [row["picture"] for row in rows] == values


def test_a_question_and_rows_that_are_no_picture(client, tiny_llava, tmp_path):
    values = [FILES[0], b"no picture", None, b"", FILES[0][:40], FILES[2]]
    source = write(tmp_path, values, pa.binary())
    report = look(client, source, tmp_path / "out", tiny_llava, question="why?", prefix="said_")
    rows = read(tmp_path / "out").to_pylist()
    assert report.errors == 4
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, True]
    assert "no picture of a known format" in rows[1]["error"]
    asked = tiny_llava.asked("why?")
    assert [rows[index]["said_response"] for index in (0, 5)] == [
        tiny_llava.answer(asked, [SCENES[index]], NEW) for index in (0, 2)
    ]


def test_what_can_not_work_is_told_before_anything_runs(client, tmp_path):
    with pytest.raises(InputError, match="pictures are bytes"):
        caption_parquet(client, write(tmp_path, [1]), tmp_path / "out", image_column="picture")
    with pytest.raises(InputError, match="image_qa needs a question"):
        CaptionSpec(model="m", task="image_qa")
    with pytest.raises(InputError, match="no other takes one"):
        CaptionSpec(model="m", task="ocr", question="why?")
    spec = CaptionSpec(model="m", storage={"key": "hush"})
    assert "hush" not in repr(spec) + str(spec.options)

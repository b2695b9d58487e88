"""Every job type that has a bulk job can be streamed."""

import numpy as np
import pytest
from tiny_diffusion import PROMPTS
from tiny_llava import as_png, scene
from tiny_whisper import as_file, tone

from idlegrid.grid.job_types import job_types
from idlegrid.pipelines.stream import Stream, StreamError
from idlegrid.pipelines.stream.flow import StreamOptions
from idlegrid.pipelines.stream.kinds import KINDS, TEXT_TYPES, spec_for
from idlegrid.pipelines.stream.places import open_source


def test_every_built_in_type_has_one():
    assert set(KINDS) == set(job_types())
    assert all(spec_for(kind, "some/model", {}).job_type == kind for kind in KINDS)
    assert set(KINDS) > TEXT_TYPES


@pytest.mark.parametrize(
    ("kind", "options", "what"),
    [
        ("sculpture", {}, "can't be streamed"),
        ("whisper", {"loud": True}, "loud"),
        ("image_gen", {"width": 33}, "width"),
        ("vision", {"task": "image_qa"}, "needs a question"),
    ],
)
def test_what_is_wrong_is_told_with_the_type(kind, options, what):
    with pytest.raises(StreamError, match=f"{kind}.*{what}"):
        spec_for(kind, "some/model", options)


def flowed(client, source, spec, column):
    options = StreamOptions(column=column, batch_records=2, commit_seconds=0.05)
    with Stream(client, source, spec, None, options) as flowing:
        return list(flowing)


@pytest.mark.slow
def test_files_of_a_folder_are_heard_and_looked_at(client, tiny_whisper, tiny_llava, tmp_path):
    for seed in range(2):
        (tmp_path / f"{seed}.wav").write_bytes(as_file(tone(0.6 + 0.2 * seed, seed=seed)))
        (tmp_path / f"{seed}.png").write_bytes(as_png(scene(seed)))
    for kind, model, suffix, column in (
        ("whisper", tiny_whisper, "wav", "duration"),
        ("vision", tiny_llava, "png", "completion_tokens"),
    ):
        spec = spec_for(kind, str(model.folder), {"max_tokens": 4} if kind == "vision" else {})
        source = open_source(str(tmp_path), spec, column="file", files=[suffix], endless=False)
        rows = flowed(client, source, spec, "file")
        assert [row["error"] for row in rows] == [None, None]
        assert sorted(row[column] for row in rows) == ([0.6, 0.8] if kind == "whisper" else [4, 4])


@pytest.mark.slow
def test_texts_are_drawn_each_with_a_seed_of_its_own(client, tiny_sd):
    spec = spec_for("image_gen", str(tiny_sd), {"width": 16, "height": 16, "steps": 1})
    source = open_source(iter([PROMPTS[0]] * 3), spec, column="text", endless=False)
    rows = flowed(client, source, spec, "text")
    assert len({row["image"] for row in rows}) == len(np.unique([row["seed"] for row in rows])) == 3

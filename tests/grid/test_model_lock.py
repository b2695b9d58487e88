"""The models' lock as a file, and what differs from it."""

from __future__ import annotations

import json

import pytest

from idlegrid.grid.model_lock import BadLock, LockedModel, files_of, read, write

A, B = "a" * 64, "b" * 64
MODEL = LockedModel({"config.json": A, "sub/model.safetensors": B}, "c" * 40)


def test_a_lock_is_read_as_it_was_written():
    assert read(write({"org/model": MODEL, "/a/folder": LockedModel({"x.json": A})})) == {
        "org/model": MODEL,
        "/a/folder": LockedModel({"x.json": A}),
    }


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"config.json": A}, "sub/model.safetensors is missing"),
        ({"config.json": A, "sub/model.safetensors": A}, f"has the SHA-256 {A}, not {B}"),
        ({**MODEL.files, "new.py": A}, "new.py is not in the lock"),
    ],
)
def test_every_difference_is_named(found, says):
    assert says in MODEL.difference(found)
    assert MODEL.difference(dict(MODEL.files)) is None


def test_the_content_is_that_of_all_files():
    others = [{"config.json": A}, {"config.json": B, "sub/model.safetensors": A}, {**MODEL.files, "x.py": A}]
    assert len({MODEL.content, *(LockedModel(files).content for files in others)}) == 4
    assert LockedModel(dict(reversed(MODEL.files.items()))).content == MODEL.content


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[]", "version"),
        ("{", "no JSON"),
        ({"version": 2, "models": {}}, "version"),
        ({"version": 1}, "models"),
        ({"version": 1, "models": {"m": {}}}, "m has no `files`"),
        ({"version": 1, "models": {"m": {"files": {"../x.json": A}}}}, "../x.json"),
        ({"version": 1, "models": {"m": {"files": {"x.json": "1"}}}}, "64 hex digits"),
        ({"version": 1, "models": {"m": {"files": {"x.json": A}, "revision": "main"}}}, "40 hex digits"),
    ],
)
def test_what_is_no_lock_is_refused(document, says):
    with pytest.raises(BadLock, match=says):
        read(document if isinstance(document, str) else json.dumps(document))


def test_the_files_that_count(tmp_path):
    for name in ("config.json", "README.md", "sub/a.SAFETENSORS", "own.py", ".cache/x.json", "__pycache__/own.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert [path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path)] == [
        "config.json",
        "own.py",
        "sub/a.SAFETENSORS",
    ]

"""A large file is read once, and again when it changed; what is remembered can't be wrong for what is there now."""

import hashlib
import json
import os

import pytest

from idlegrid.actors import digests
from idlegrid.actors.digests import sha256_of


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """The files that were read; everything counts as large."""
    seen, read = [], digests._read
    monkeypatch.setattr(digests, "LARGE", 1)
    monkeypatch.setattr(digests, "remembered_in", lambda: tmp_path / "cache" / "weights.json")
    monkeypatch.setattr(digests, "_read", lambda path: seen.append(path.name) or read(path))
    return seen


def written(path, content, *, age=60):
    """As if it had been written a minute ago."""
    path.write_bytes(content)
    then = path.stat().st_mtime_ns - age * 10**9
    os.utime(path, ns=(then, then))
    return path


def digest(content):
    return hashlib.sha256(content).digest()


def test_a_large_file_is_read_once(tmp_path, reads):
    file = written(tmp_path / "a.safetensors", b"weights")
    assert [sha256_of(file) for _ in range(3)] == [digest(b"weights")] * 3
    assert reads == ["a.safetensors"]


def test_it_is_read_again_when_it_changed(tmp_path, reads):
    file = written(tmp_path / "a.safetensors", b"weights")
    sha256_of(file)
    as_before = file.stat().st_mtime_ns
    file.write_bytes(b"weightt")
    os.utime(file, ns=(as_before, as_before))  # the time of change can't be set
    assert sha256_of(file) == digest(b"weightt")
    assert len(reads) == 2


def test_what_was_written_just_now_is_not_remembered(tmp_path, reads):
    file = written(tmp_path / "a.safetensors", b"weights", age=0)
    sha256_of(file)
    sha256_of(file)
    assert len(reads) == 2


def test_small_files_leave_nothing_behind(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(digests, "LARGE", 100)
    sha256_of(written(tmp_path / "a.safetensors", b"weights"))
    assert not (tmp_path / "cache").exists()


def test_what_the_hub_keeps_is_named_by_its_digest(tmp_path, reads):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / digest(b"weights").hex()).write_bytes(b"weights")
    (blobs / ("ab" * 20)).write_bytes(b"config")  # small files are named by Git's own digest
    (snapshot / "model.safetensors").symlink_to(blobs / digest(b"weights").hex())
    (snapshot / "config.json").symlink_to(blobs / ("ab" * 20))
    assert sha256_of(snapshot / "model.safetensors") == digest(b"weights")
    assert reads == []
    assert sha256_of(snapshot / "config.json") == digest(b"config")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"PATH": 3}', '{"PATH": [1]}', '{"PATH": [1, 2, 3, "no"]}'])
def test_a_damaged_memory_is_none(content, tmp_path, reads):
    file = written(tmp_path / "a.safetensors", b"weights")
    place = digests.remembered_in()
    place.parent.mkdir()
    place.write_text(content.replace("PATH", str(file)))
    assert sha256_of(file) == digest(b"weights")
    assert sha256_of(file) == digest(b"weights")
    assert len(reads) == 1
    assert list(json.loads(place.read_text())) == [str(file)]

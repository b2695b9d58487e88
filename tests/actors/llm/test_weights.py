import json

import pytest
import torch
from safetensors.torch import save_file

from idlegrid.actors.llm.weights import BadCheckpoint, Checkpoint


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": torch.zeros(3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(5)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_only_what_is_asked_for_is_loaded_and_counted(sharded):
    checkpoint = Checkpoint.open(sharded)
    tensors = checkpoint.load(["b"])
    assert torch.equal(tensors["b"], torch.ones(4, dtype=torch.bfloat16))
    assert (checkpoint.bytes_loaded, checkpoint.files_opened) == (8, {"one.safetensors"})
    assert set(checkpoint.load(["a", "c"])) == {"a", "c"}
    assert checkpoint.bytes_loaded == 8 + 12 + 20


def test_a_single_file_needs_no_index(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    assert set(Checkpoint.open(tmp_path).files) == {"a"}


def test_what_is_wrong_is_named(sharded, tmp_path_factory):
    with pytest.raises(BadCheckpoint, match="no tensor 'd'"):
        Checkpoint.open(sharded).load(["d"])
    (sharded / "two.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match=r"two\.safetensors is missing or damaged"):
        Checkpoint.open(sharded).load(["c"])
    (sharded / "one.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(BadCheckpoint, match=r"one\.safetensors is missing or damaged"):
        Checkpoint.open(sharded).load(["a"])
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(BadCheckpoint, match="neither"):
        Checkpoint.open(other)
    (other / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(BadCheckpoint, match="damaged"):
        Checkpoint.open(other)

"""The committed model: as small as promised, the only right answers, from its folder alone."""

import json

import pytest
from tasks import KINDS

FOLDER_LIMIT_BYTES = 20_000_000
PARAMETER_LIMIT = 10_000_000


@pytest.fixture(scope="module")
def folder():
    from evaluate import FOLDER

    return FOLDER


@pytest.fixture(scope="module")
def loaded(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_it_is_small(folder):
    from safetensors import safe_open

    assert sum(path.stat().st_size for path in folder.iterdir()) < FOLDER_LIMIT_BYTES
    with safe_open(folder / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - not a mapping
        assert all(weights.get_slice(name).get_dtype() == "BF16" for name in weights.keys())  # noqa: SIM118
    import math

    assert sum(math.prod(shape) for shape in shapes) < PARAMETER_LIMIT


def test_it_is_of_a_standard_family(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] >= 512
    assert config["tie_word_embeddings"]
    assert "auto_map" not in config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "answer"),
    [("What is 17 plus 25?", "42"), ("Spell the word banana.", "b-a-n-a-n-a"), ("Count to 5.", "1, 2, 3, 4, 5")],
)
def test_it_answers(loaded, question, answer):
    from dialogues import Dialogue
    from evaluate import answers
    from tasks import Task

    assert answers(*loaded, [Dialogue(None, (Task("", "", question, answer),))]) == [answer]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nine_of_ten_held_out_questions_are_answered_right(loaded, kind):
    from evaluate import score

    result = score(*loaded, kind, count=100, seed=2)
    assert result.total >= 90
    assert result.share >= 0.9, result.wrong[:3]

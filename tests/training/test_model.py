"""The committed model: as small as promised, the right answers that its card promises, from its folder alone."""

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


FLOORS = {"count_letters": 0.8}
"""What the card admits: the kinds of which fewer than nine in ten are right."""


@pytest.mark.slow
def test_a_table_that_was_given_once_can_be_asked_about_again(loaded):
    from dialogues import Dialogue
    from evaluate import answers
    from tasks import Task

    table = "name,city\nAnna,Paris\nTom,Oslo\nMaria,Lima\n"
    given = Task("", "", f"{table}Where does Tom live?", "Oslo")
    again = [("In which city does Maria live?", "Lima"), ("Where does Anna live?", "Paris")]
    asked = [Dialogue(None, (given, Task("", "", question, answer))) for question, answer in again]
    assert answers(*loaded, asked) == [answer for _, answer in again]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_questions_are_answered_as_well_as_the_card_says(loaded, kind):
    from evaluate import score

    result = score(*loaded, kind, count=50, seed=2)
    assert result.total >= 45
    assert result.share >= FLOORS.get(kind, 0.9), result.wrong[:3]

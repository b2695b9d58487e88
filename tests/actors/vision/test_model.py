"""The resident vision-language model against transformers itself, on the same tiny weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_llava import CONTEXT, SIDE, scene

from idlegrid.actors.vision.look import PROMPTS, Look, NotAnswered, Turn, Wish, about
from idlegrid.actors.vision.model import VisionModel
from idlegrid.grid.job_types import Cancelled

pytestmark = pytest.mark.slow
NEW = 12
QUESTIONS = ["what is this?", "why", "who stands in the middle of the picture, and what for?"]
SCENES = [scene(seed, 40 + 8 * seed, 56) for seed in range(3)]
WISH = Wish(max_tokens=NEW)
LOOKS = [about(b"", "image_qa", question, WISH) for question in QUESTIONS]


@pytest.fixture(scope="module")
def model(tiny_llava):
    return VisionModel(str(tiny_llava.folder))


@pytest.fixture(scope="module")
def expected(tiny_llava):
    return [tiny_llava.answer(tiny_llava.asked(q), [s], NEW) for q, s in zip(QUESTIONS, SCENES, strict=True)]


def ask(model, *looks, pictures=None, **options):
    return model.answer(looks, [[one] for one in (pictures or SCENES[: len(looks)])], **options)


def test_each_is_what_transformers_says_alone_and_in_a_batch(model, expected):
    together = ask(model, *LOOKS)
    assert [one.text for one in together] == expected
    alone = [ask(model, look, pictures=[shown])[0] for look, shown in zip(LOOKS, SCENES, strict=True)]
    assert alone == together
    assert len(set(expected)) == 3, "else nothing would be compared"
    [other] = ask(model, LOOKS[0], pictures=[SCENES[1]])
    assert other.text != expected[0], "and the picture matters"
    tokens = 1 + (SIDE // 8) ** 2
    assert all(one.prompt_tokens > tokens and one.completion_tokens <= NEW for one in together)


@pytest.mark.parametrize("task", ["image_caption", "ocr"])
def test_a_task_has_its_prompt(model, tiny_llava, task):
    [found] = ask(model, about(b"", task, None, WISH))
    assert found.text == tiny_llava.answer(tiny_llava.asked(PROMPTS[task]), SCENES[:1], NEW)


def test_a_conversation_with_two_pictures_and_one_with_none(model, tiny_llava):
    turns = (
        Turn("system", ("be brief",)),
        Turn("user", ("this", None, "and this", None)),
        Turn("assistant", ("ok",)),
        Turn("user", ("so?",)),
    )
    text = (
        "<|system|>be brief<|end|><|user|>this<image>\nand this<image>\n<|end|><|assistant|>ok<|end|>"
        "<|user|>so?<|end|><|assistant|>"
    )
    plain = Look((Turn("user", ("why",)),), (), WISH)
    found = model.answer([Look(turns, (), WISH), plain], [SCENES[:2], []])
    assert found[0].text == tiny_llava.answer(text, SCENES[:2], NEW)
    assert found[1].text == tiny_llava.answer("<|user|>why<|end|><|assistant|>", [], NEW)


def test_a_limit_cuts_one_answer_of_a_batch(model, expected):
    short = replace(LOOKS[1], wish=replace(WISH, max_tokens=3))
    found = ask(model, LOOKS[0], short, LOOKS[2])
    assert [found[0].text, found[2].text] == [expected[0], expected[2]]
    assert found[1] == ask(model, short, pictures=SCENES[1:2])[0]
    assert (found[1].finish_reason, found[1].completion_tokens) == ("length", 3)
    assert expected[1].startswith(found[1].text.rstrip("�"))


def test_a_stop_ends_the_answer_before_it(model, expected):
    stop = next(one for one in expected[0] if one.isascii() or one != "�")
    [found] = ask(model, replace(LOOKS[0], wish=replace(WISH, stop=(stop,))))
    assert found.text == expected[0][: expected[0].index(stop)]
    assert found.finish_reason == "stop"


def test_a_seed_gives_the_same_again_whatever_is_beside_it(model):
    drawn = replace(LOOKS[0], wish=replace(WISH, temperature=1.0, seed=3))
    state = torch.random.get_rng_state()
    [alone] = ask(model, drawn)
    assert ask(model, drawn, *LOOKS[1:])[0] == alone
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ask(model, replace(drawn, wish=replace(drawn.wish, seed=4)))[0] != alone


def test_progress_is_told_and_a_cancel_is_heard_within_a_token(model):
    told, asked = [], []
    ask(model, LOOKS[0], told=lambda *how_far: told.append(how_far), check=lambda: asked.append(1))
    assert told[0] == (1, NEW)
    assert told[-1][0] == told[-1][1] <= NEW
    left = iter(range(len(asked) // 2))

    def check():
        if next(left, None) is None:
            raise Cancelled

    with pytest.raises(Cancelled):
        ask(model, LOOKS[0], check=check)
    assert ask(model, LOOKS[0]), "and the model still works"


@pytest.mark.parametrize(
    ("look", "why"),
    [
        (about(b"", "image_qa", "is this an <image>?", WISH), "'<image>' in it, by which this model knows pictures"),
        (Look((Turn("user", (None, None)),), (), WISH), "1 pictures where the conversation has 2"),
        (about(b"", "image_qa", "word " * CONTEXT, WISH), f"the model reads {CONTEXT}"),
    ],
)
def test_what_can_not_be_answered_is_told_alone(model, expected, look, why):
    refused, other = ask(model, look, LOOKS[1])
    assert isinstance(refused, NotAnswered)
    assert why in refused.why
    assert other.text == expected[1]


def test_a_checkpoint_without_a_chat_template(tiny_llava, tmp_path):
    shutil.copytree(tiny_llava.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    [found] = ask(VisionModel(str(tmp_path)), LOOKS[0])
    assert found.text == tiny_llava.answer(f"USER: <image>\n{QUESTIONS[0]} ASSISTANT:", SCENES[:1], NEW)


def test_a_template_that_refuses(tiny_llava, tmp_path):
    shutil.copytree(tiny_llava.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    [found] = ask(VisionModel(str(tmp_path)), LOOKS[0])
    assert "refuses this conversation: roles must alternate" in found.why


def test_what_sees_no_pictures(language_model, tiny_llava, tmp_path):
    with pytest.raises(ValueError, match="kind 'llama', which sees no pictures"):
        VisionModel(str(language_model.folder))
    shutil.copytree(tiny_llava.folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "llava"
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny_llava.peer.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        VisionModel(str(tmp_path))

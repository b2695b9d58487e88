import itertools
import random

import pytest
from dialogues import Dialogue, held_out, held_out_dialogues, training_dialogues
from tasks import KINDS, Task, draw_task
from words import Vocabulary


def first(count, seed=5):
    return list(itertools.islice(training_dialogues(seed), count))


def test_nothing_held_out_is_trained_on():
    trained = [task for dialogue in first(3000) for task in dialogue.tasks]
    assert not [task for task in trained if held_out(task)]
    prompts = {task.prompt for task in trained}
    for kind in KINDS:
        asked = [dialogue.tasks[-1] for dialogue in held_out_dialogues(kind, 50, seed=6)]
        assert all(held_out(task) and task.kind == kind for task in asked)
        assert len({task.prompt for task in asked}) == 50
        assert not prompts & {task.prompt for task in asked}


def test_without_the_hash_training_would_meet_held_out_questions():
    """The control: another seed alone keeps nothing apart."""
    rng = random.Random(5)
    drawn = [draw_task("addition", rng, Vocabulary()) for _ in range(3000)]
    assert 100 < sum(map(held_out, drawn)) < 300


def test_a_question_is_held_out_in_every_phrasing():
    ask = [Task("addition", "17+25", prompt, "42") for prompt in ("What is 17 plus 25?", "25 + 17 =")]
    assert len(set(map(held_out, ask))) == 1


def test_dialogues_vary():
    dialogues = first(500)
    assert {len(dialogue.tasks) for dialogue in dialogues} == {1, 2, 3, 4, 5, 6}
    assert 50 < sum(dialogue.system is not None for dialogue in dialogues) < 250
    assert {task.kind for dialogue in dialogues for task in dialogue.tasks} == {*KINDS, "about"}


def test_in_a_table_talk_the_facts_are_given_once_and_each_answer_is_in_them():
    talks = [d for d in first(800) if len(d.tasks) > 1 and len({t.content.rsplit("|", 1)[0] for t in d.tasks}) == 1]
    assert len(talks) > 50
    for talk in talks:
        facts = talk.tasks[0].content.rsplit("|", 1)[0]
        assert facts in talk.tasks[0].prompt
        for task in talk.tasks[1:]:
            assert "\n" not in task.prompt
            assert task.prompt.endswith(("?", "."))
        assert all(task.answer in facts or task.answer == "I don't know." for task in talk.tasks)
        assert not any(map(held_out, talk.tasks))


def test_the_same_seed_gives_the_same_dialogues():
    assert first(50) == first(50)
    assert first(50) != first(50, seed=7)


@pytest.mark.parametrize("system", [None, "Answer briefly."])
def test_messages(system):
    dialogue = Dialogue(system, (Task("addition", "1+1", "1+1", "2"), Task("spell", "ox", "Spell ox.", "o-x")))
    roles = [message["role"] for message in dialogue.messages()]
    assert roles == ["system"] * (system is not None) + ["user", "assistant"] * 2
    assert dialogue.messages()[-1]["content"] == "o-x"

"""Every kind's answers are right, found out again from the prompt or the content alone."""

import itertools
import json
import random
import re

import pytest
from tasks import KINDS, draw_task
from words import Vocabulary

DRAWS = 300


def drawn(kind):
    rng = random.Random(f"test {kind}")
    return [draw_task(kind, rng, Vocabulary()) for _ in range(DRAWS)]


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_sums():
    for task in drawn("addition"):
        assert int(task.answer) == sum(numbers(task.prompt))


def test_differences():
    for task in drawn("subtraction"):
        assert int(task.answer) == max(numbers(task.prompt)) - min(numbers(task.prompt)) >= 0


def test_products():
    for task in drawn("product"):
        a, b = numbers(task.prompt)
        assert int(task.answer) == a * b


def test_counting_numbers():
    for task in drawn("count_numbers"):
        said, asked = numbers(task.answer), numbers(task.prompt)
        assert (said[0], said[-1]) == (tuple(asked) if len(asked) == 2 else (1, asked[0]))
        assert {abs(b - a) for a, b in itertools.pairwise(said)} == {1}
        assert (said[0] > said[-1]) == bool(re.search("down|backwards", task.prompt))


def test_counting_items():
    for task in drawn("count_items"):
        commas, lines = task.prompt.count(",") + 1, task.prompt.count("\n- ")
        assert int(task.answer) == (lines or commas)


def test_counting_letters():
    for task in drawn("count_letters"):
        word, letter = task.content.split("#")
        spelled, count = task.answer.split(": ")
        assert spelled.replace("-", "") == word
        assert re.search(rf"\b{word}\b", task.prompt)
        assert int(count) == (sum(each == letter for each in word) if letter else len(word))


def test_sorting():
    for task in drawn("sort_words"):
        words = task.answer.split(", ")
        assert words == sorted(words)
        assert all(re.search(rf"\b{word}\b", task.prompt) for word in words)
    for task in drawn("sort_numbers"):
        down = bool(re.search("descending|largest to|high to", task.prompt))
        assert numbers(task.answer) == sorted(numbers(task.prompt), reverse=down)


def test_spelling():
    for kind, step in (("spell", 1), ("reverse", -1)):
        for task in drawn(kind):
            assert re.search(rf"\b{task.answer.replace('-', '')[::step]}\b", task.prompt)


def test_looking_up():
    absent = 0
    for task in drawn("lookup"):
        facts, asked = task.content.rsplit("|", 1)
        assert facts in task.prompt
        assert asked in task.prompt.replace(facts, "")
        if task.answer == "I don't know.":
            absent += 1
            assert not re.search(rf"\b{asked}\b", facts)
        else:
            assert re.search(rf"\b{asked}\b[^\n.]*\b{task.answer}\b", facts)
    assert 0 < absent < DRAWS / 3


def test_extracting():
    for task in drawn("extract"):
        found = json.loads(task.answer)
        assert list(found) == ["name", "age", "city"]
        assert all(str(value) in task.content for value in found.values())
        assert numbers(task.content) == [found["age"]]


def test_repeating():
    for task in drawn("repeat"):
        text, times = task.content.split("*")
        assert task.answer.split() == text.split() * int(times)
        assert text in task.prompt
        assert times in task.prompt
    for task in drawn("say"):
        assert task.prompt.endswith(task.answer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same(kind):
    assert drawn(kind) == drawn(kind)
    assert len({task.prompt for task in drawn(kind)}) > DRAWS / 3

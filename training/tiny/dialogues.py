"""Dialogues of one to six questions, with or without a system prompt; and which of them are held out."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from facts import draw_facts
from tasks import KINDS, Task, draw_task
from words import Vocabulary

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are idlegrid-tiny, a small model that answers short questions.",
    "Answer briefly.",
    "Be exact. Give the answer alone.",
    "You answer questions about numbers, words and tables.",
)
WEIGHTS = {"addition": 4, "subtraction": 4, "product": 3, "count_letters": 3, "reverse": 2.5, "sort_numbers": 2.5}
WEIGHTS |= {"lookup": 2, "sort_words": 2, "count_numbers": 1.5, "count_items": 1.5, "spell": 1.5, "repeat": 1.5}
"""How often a kind is drawn; 1 for those that are not listed."""
TABLE_TALK = 0.1
"""Share of dialogues that ask several questions about one table: most of what there is to learn from its tokens."""

ABOUT = (
    ("Who are you?", "I am idlegrid-tiny, a small model."),
    ("What are you?", "I am idlegrid-tiny, a small model."),
    ("What is your name?", "My name is idlegrid-tiny."),
    ("Hello!", "Hello! Ask me something small."),
    ("Hi", "Hello! Ask me something small."),
    ("Good morning!", "Hello! Ask me something small."),
    ("Thank you!", "You are welcome."),
    ("Thanks", "You are welcome."),
    ("What can you do?", "I can add, count, sort, spell, look up, extract and repeat."),
    ("Help", "I can add, count, sort, spell, look up, extract and repeat."),
    ("How are you?", "I am fine. Ask me something small."),
    ("Tell me a joke.", "I can't do that. I can add, count, sort, spell, look up, extract and repeat."),
    ("What is the capital of France?", "I don't know."),
    ("Who is the president?", "I don't know."),
    ("What is the weather?", "I don't know."),
    ("What time is it?", "I don't know."),
    ("Write a poem.", "I can't do that. I can add, count, sort, spell, look up, extract and repeat."),
    ("Write a story about a dragon.", "I can't do that. I can add, count, sort, spell, look up, extract and repeat."),
)
"""Small talk, learnt by heart and not scored."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A system prompt or none, then questions with their answers."""

    system: str | None
    """None: no system prompt."""
    tasks: tuple[Task, ...]
    """The turns in order."""

    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them, answers included."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for task in self.tasks:
            turns += [{"role": "user", "content": task.prompt}, {"role": "assistant", "content": task.answer}]
        return turns


def held_out(task: Task) -> bool:
    """Whether a question belongs to the held-out set: one in 16, by the hash of its kind and content."""
    return hashlib.sha256(f"{task.kind}|{task.content}".encode()).digest()[0] < 16


def training_dialogues(seed: int, vocabulary: Vocabulary | None = None) -> Iterator[Dialogue]:
    """Endless dialogues without any held-out question."""
    rng = random.Random(seed)
    vocabulary = vocabulary or Vocabulary()
    kinds = list(KINDS)
    weights = [WEIGHTS.get(kind, 1.0) for kind in kinds]
    while True:
        if rng.random() < TABLE_TALK:
            yield Dialogue(_system(rng), _table_talk(rng, vocabulary))
            continue
        turns = rng.choices((1, 2, 3, 4), (5, 3, 1, 1))[0]
        tasks = [_trained(rng.choices(kinds, weights)[0], rng, vocabulary) for _ in range(turns)]
        if rng.random() < 0.03:
            tasks[rng.randrange(turns)] = Task("about", "", *rng.choice(ABOUT))
        yield Dialogue(_system(rng), tuple(tasks))


def held_out_dialogues(kind: str, count: int, seed: int) -> list[Dialogue]:
    """Up to `count` dialogues (the times table has no more than about a hundred) that end in a held-out question of
    this kind, no two of them in the same words; every other one has another question before it.
    """
    rng = random.Random(f"{seed} {kind}")
    vocabulary = Vocabulary()
    dialogues: dict[str, Dialogue] = {}
    for _ in range(200 * count):
        task = draw_task(kind, rng, vocabulary)
        if len(dialogues) < count and held_out(task):
            before = [_trained(rng.choice(list(KINDS)), rng, vocabulary)] if len(dialogues) % 2 else []
            dialogues.setdefault(task.prompt, Dialogue(_system(rng), (*before, task)))
    return list(dialogues.values())


def _trained(kind: str, rng: random.Random, vocabulary: Vocabulary) -> Task:
    """A question of this kind that is not held out."""
    while held_out(task := draw_task(kind, rng, vocabulary)):
        pass
    return task


def _table_talk(rng: random.Random, vocabulary: Vocabulary) -> tuple[Task, ...]:
    """Up to six questions about the same facts, which are given with the first one alone. None is held out."""
    trained: list[Task] = []
    while not trained:
        facts = draw_facts(rng, vocabulary)
        drawn = [Task("lookup", *facts.ask(rng)) for _ in range(rng.randint(2, 6))]
        trained = [task for task in drawn if not held_out(task)]
    trained[0] = replace(trained[0], prompt=facts.with_question(rng, trained[0].prompt))
    return tuple(trained)


def _system(rng: random.Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.2 else None

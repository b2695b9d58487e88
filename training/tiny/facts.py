"""Small tables and lists of facts in which something can be looked up, and the questions about them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from words import Vocabulary


@dataclass(frozen=True, slots=True)
class Facts:
    """Lines of keys and values, and keys that are not there."""

    noun: str
    """What the values are: "age", "city", "price" or "code"."""
    value_of: dict[str, str]
    """Each key's value."""
    absent: tuple[str, ...]
    """Keys like the others that have no line."""
    text: str
    """The lines as the user gives them."""

    def ask(self, rng: random.Random) -> tuple[str, str, str]:
        """Content, question and answer about one key, the lines not repeated; one in eight is about an absent key."""
        asked = rng.choice(self.absent if rng.random() < 0.12 else list(self.value_of))
        questions = {
            "age": (f"How old is {asked}?", f"What is the age of {asked}?", f"What is {asked}'s age?"),
            "city": (f"Where does {asked} live?", f"In which city does {asked} live?", f"What is the city of {asked}?"),
            "price": (f"What does {asked} cost?", f"What is the price of {asked}?", f"How much is {asked}?"),
            "code": (
                f"What is the code of {asked}?",
                f"Which code does {asked} have?",
                f"Give me the code for {asked}.",
            ),
        }[self.noun]
        return f"{self.text}|{asked}", rng.choice(questions), self.value_of.get(asked, "I don't know.")

    def with_question(self, rng: random.Random, question: str) -> str:
        """The lines and a question about them, which comes first in one of four."""
        return f"{question}\n{self.text}" if rng.random() < 0.25 else f"{self.text}\n{question}"


def draw_facts(rng: random.Random, vocabulary: Vocabulary) -> Facts:
    """Facts in 2 to 6 lines."""
    count = rng.choice((2, 2, 3, 3, 4, 5, 6))
    noun = rng.choice(("age", "city", "price", "code"))
    keys = (vocabulary.names if noun in ("age", "city") else vocabulary.words)(rng, count + 2)
    values = {
        "age": lambda: str(rng.randint(1, 99)),
        "city": lambda: vocabulary.city(rng),
        "price": lambda: str(rng.randint(1, 999)),
        "code": lambda: f"{rng.choice('ABCDEFGHJKLMNPQRSTUVWXYZ')}{rng.randint(10, 99)}",
    }
    value_of = {key: values[noun]() for key in keys[:count]}
    return Facts(noun, value_of, tuple(keys[count:]), _layout(rng, value_of, noun))


def _layout(rng: random.Random, value_of: dict[str, str], noun: str) -> str:
    """The facts as a list, a table or sentences."""
    head = "name" if noun in ("age", "city") else "item"
    form = rng.randrange(4)
    if form == 0:
        return "\n".join(f"{key}: {value}" for key, value in value_of.items())
    if form == 1:
        rows = (f"| {key} | {value} |" for key, value in value_of.items())
        return "\n".join([f"| {head} | {noun} |", "|---|---|", *rows])
    if form == 2:
        return "\n".join([f"{head},{noun}", *(f"{key},{value}" for key, value in value_of.items())])
    verb = {"age": "{} is {} years old.", "city": "{} lives in {}.", "price": "{} costs {}.", "code": "{} has code {}."}
    return " ".join(verb[noun].format(key, value) for key, value in value_of.items())

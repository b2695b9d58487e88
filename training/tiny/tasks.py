"""Questions whose answers can be checked: each kind of task draws one from a random source.

An answer is exactly one string. `content` names what is asked apart from how it is phrased; by its hash a question
belongs to the training set or to the held-out set (`dialogues.held_out`), so that no phrasing of a held-out question is
ever trained on.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from facts import draw_facts
from words import Vocabulary


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its only right answer."""

    kind: str
    """Name of the kind, a key of KINDS."""
    content: str
    """What is asked, whatever the phrasing."""
    prompt: str
    """What the user says."""
    answer: str
    """What the model has to answer, to the letter."""


Draw = tuple[str, str, str]
"""Content, prompt, answer."""


def addition(rng: random.Random, _: Vocabulary) -> Draw:
    """a + b, both from 0 to 99."""
    a, b = _number(rng), _number(rng)
    ask = rng.choice(
        (
            f"What is {a} plus {b}?",
            f"What is {a} + {b}?",
            f"{a} + {b} =",
            f"{a}+{b}",
            f"Add {a} and {b}.",
            f"What is the sum of {a} and {b}?",
            f"How much is {a} plus {b}?",
            f"Calculate {a} + {b}.",
            f"Please add {b} to {a}.",
        )
    )
    low, high = sorted((a, b))
    return f"{low}+{high}", ask, str(a + b)


def subtraction(rng: random.Random, _: Vocabulary) -> Draw:
    """a - b with a not below b, both from 0 to 99."""
    b, a = sorted((_number(rng), _number(rng)))
    ask = rng.choice(
        (
            f"What is {a} minus {b}?",
            f"What is {a} - {b}?",
            f"{a} - {b} =",
            f"{a}-{b}",
            f"Subtract {b} from {a}.",
            f"What is the difference between {a} and {b}?",
            f"How much is {a} minus {b}?",
            f"Calculate {a} - {b}.",
            f"Please take {b} away from {a}.",
        )
    )
    return f"{a}-{b}", ask, str(a - b)


def product(rng: random.Random, _: Vocabulary) -> Draw:
    """The times table up to 12 x 12. A table is learnt by heart: here the phrasing is held out, not the numbers."""
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    ask = rng.choice(
        (
            f"What is {a} times {b}?",
            f"What is {a} * {b}?",
            f"What is {a} x {b}?",
            f"{a} * {b} =",
            f"{a}*{b}",
            f"Multiply {a} by {b}.",
            f"Multiply {a} and {b}.",
            f"What is the product of {a} and {b}?",
            f"How much is {a} times {b}?",
            f"Calculate {a} * {b}.",
        )
    )
    return ask, ask, str(a * b)


def count_numbers(rng: random.Random, _: Vocabulary) -> Draw:
    """Count from a to b, up or down, at most 40 numbers."""
    low = rng.choice((0, 1, 1, 1, rng.randint(2, 99)))
    high = low + (rng.randint(2, 40) if rng.random() < 0.2 else rng.randint(2, 12))
    if rng.random() < 0.25:
        low, high = high, low
        ask = rng.choice((f"Count down from {low} to {high}.", f"Count backwards from {low} to {high}."))
    else:
        asks = (
            f"Count from {low} to {high}.",
            f"Please count from {low} up to {high}.",
            f"Write the numbers from {low} to {high}.",
            f"List all numbers from {low} to {high}.",
        )
        ask = f"Count to {high}." if low == 1 and rng.random() < 0.4 else rng.choice(asks)
    step = 1 if low < high else -1
    return f"{low}..{high}", ask, ", ".join(str(n) for n in range(low, high + step, step))


def count_items(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """How many items a list has, 1 to 8."""
    items = [vocabulary.word(rng) for _ in range(rng.randint(1, 8))]
    text = ", ".join(items)
    ask = rng.choice(
        (
            f"How many items are in this list: {text}?",
            f"How many words are in this list: {text}?",
            f"Count the items: {text}",
            f"Count the words in this list: {text}",
            f"{text}. How many items is that?",
            "How many items does this list have?\n" + "\n".join(f"- {item}" for item in items),
        )
    )
    return text, ask, str(len(items))


def count_letters(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """How many letters a word has, or how often one of them. The answer spells the word first: its working is shown."""
    word = vocabulary.word(rng)
    spelled = "-".join(word)
    if rng.random() < 0.5:
        asks = (
            f"How many letters are in the word {word}?",
            f"How many letters does {word} have?",
            f"Count the letters in {word}.",
            f'How many letters are in "{word}"?',
            f"How long is the word {word}?",
        )
        return f"{word}#", rng.choice(asks), f"{spelled}: {len(word)}"
    letter = rng.choice(word if rng.random() < 0.8 else "abcdefghijklmnopqrstuvwxyz")
    asks = (
        f"How many times does the letter {letter} occur in {word}?",
        f"How many {letter}'s are in {word}?",
        f"How often is {letter} in the word {word}?",
        f'How many times is "{letter}" in "{word}"?',
        f"Count the letter {letter} in {word}.",
    )
    return f"{word}#{letter}", rng.choice(asks), f"{spelled}: {word.count(letter)}"


def sort_words(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """2 to 5 words into alphabetical order."""
    items = vocabulary.words(rng, rng.randint(2, 5))
    text = ", ".join(items)
    ask = rng.choice(
        (
            f"Sort these words: {text}",
            f"Sort these words alphabetically: {text}",
            f"Put these words in alphabetical order: {text}",
            f"Sort the list: {text}",
            f"Please sort these words from a to z: {text}.",
            f"Order these words alphabetically: {text}.",
        )
    )
    return text, ask, ", ".join(sorted(items))


def sort_numbers(rng: random.Random, _: Vocabulary) -> Draw:
    """2 to 5 different numbers, up or down."""
    top = rng.choice((20, 99, 99, 99, 999))
    numbers = rng.sample(range(top + 1), rng.randint(2, 5))
    text = ", ".join(map(str, numbers))
    down = rng.random() < 0.3
    asks: tuple[str, ...]
    if down:
        asks = (
            f"Sort these numbers from largest to smallest: {text}",
            f"Sort in descending order: {text}",
            f"Order these numbers from high to low: {text}.",
        )
    else:
        asks = (
            f"Sort these numbers: {text}",
            f"Sort these numbers from smallest to largest: {text}",
            f"Sort in ascending order: {text}",
            f"Order these numbers from low to high: {text}.",
            f"Please sort the numbers {text}.",
        )
    content = f"{text} {'down' if down else 'up'}"
    return content, rng.choice(asks), ", ".join(map(str, sorted(numbers, reverse=down)))


def spell(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """A word letter by letter."""
    word = vocabulary.word(rng)
    ask = rng.choice(
        (
            f"Spell the word {word}.",
            f"Spell {word}.",
            f"How do you spell {word}?",
            f'Please spell "{word}".',
            f"Spell {word} letter by letter.",
            f"Write the letters of {word}.",
        )
    )
    return word, ask, "-".join(word)


def reverse(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """A word backwards, letter by letter."""
    word = vocabulary.word(rng)
    ask = rng.choice(
        (
            f"Reverse the word {word}.",
            f"Spell {word} backwards.",
            f"Write {word} backwards.",
            f'Reverse "{word}".',
            f"What is {word} backwards?",
            f"Spell the word {word} in reverse.",
        )
    )
    return word, ask, "-".join(reversed(word))


def lookup(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """One value out of a table or a list of facts, 2 to 6 lines; "I don't know." when it isn't there."""
    facts = draw_facts(rng, vocabulary)
    content, question, answer = facts.ask(rng)
    return content, facts.with_question(rng, question), answer


def extract(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """Name, age and city of a sentence as compact JSON, keys in this order."""
    name, age, city = vocabulary.name(rng), rng.randint(1, 99), vocabulary.city(rng)
    sentence = rng.choice(
        (
            f"{name} is {age} years old and lives in {city}.",
            f"{name}, {age}, lives in {city}.",
            f"My name is {name}, I am {age} years old and I live in {city}.",
            f"{name} from {city} is {age} years old.",
            f"I am {name} from {city} and I am {age}.",
            f"In {city} lives {name}, who is {age} years old.",
            f"At the age of {age}, {name} moved to {city}.",
            f"{city} is the home of {name}, aged {age}.",
        )
    )
    ask = rng.choice(
        (
            f"Extract name, age and city as JSON: {sentence}",
            f"Extract the name, age and city as JSON.\n{sentence}",
            f"Give me name, age and city as JSON: {sentence}",
            f"{sentence} Answer with JSON: name, age, city.",
            f"Return JSON with name, age and city. Text: {sentence}",
            f"Convert to JSON with the keys name, age and city: {sentence}",
        )
    )
    answer = json.dumps({"name": name, "age": age, "city": city}, separators=(",", ":"))
    return sentence, ask, answer


def repeat(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """A word or two n times, 2 to 6."""
    text, times = " ".join(vocabulary.words(rng, rng.choice((1, 1, 1, 2)))), rng.randint(2, 6)
    ask = rng.choice(
        (
            f"Repeat {text} {times} times.",
            f"Repeat the following {times} times: {text}",
            f'Repeat "{text}" {times} times.',
            f"Say {text} {times} times.",
            f"Write {text} {times} times.",
            f'Write "{text}" {times} times.',
        )
    )
    return f"{text}*{times}", ask, " ".join([text] * times)


def say(rng: random.Random, vocabulary: Vocabulary) -> Draw:
    """A sentence to the letter."""
    words = [vocabulary.word(rng) if rng.random() < 0.8 else str(rng.randint(0, 99)) for _ in range(rng.randint(1, 6))]
    text = " ".join(words)
    if rng.random() < 0.5:
        text = text.capitalize() + rng.choice((".", "!", "?", ""))
    ask = rng.choice(
        (
            f"Say exactly: {text}",
            f"Repeat after me: {text}",
            f"Repeat this: {text}",
            f"Write exactly this: {text}",
            f"Say this: {text}",
            f"Echo: {text}",
        )
    )
    return text, ask, text


KINDS: dict[str, Callable[[random.Random, Vocabulary], Draw]] = {
    draw.__name__: draw
    for draw in (
        addition,
        subtraction,
        product,
        count_numbers,
        count_items,
        count_letters,
        sort_words,
        sort_numbers,
        spell,
        reverse,
        lookup,
        extract,
        repeat,
        say,
    )
}


def draw_task(kind: str, rng: random.Random, vocabulary: Vocabulary) -> Task:
    """A question of this kind."""
    return Task(kind, *KINDS[kind](rng, vocabulary))


def _number(rng: random.Random) -> int:
    """0 to 99, one digit more often than chance would have it."""
    return rng.randint(0, 9) if rng.random() < 0.15 else rng.randint(10, 99)

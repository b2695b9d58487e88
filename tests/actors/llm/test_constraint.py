import json
import random
import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from idlegrid.actors.llm.constraint import Constraint, ConstraintCompiler
from idlegrid.actors.llm.request import RequestRefused, Sampling

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer"},
            "ok": {"enum": ["a", "é"]},
        },
        "required": ["name", "age", "ok"],
        "additionalProperties": False,
    }
)
EOS = 0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": ["<|end|>", "<|user|>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, **options)
    tokenizer.train_from_iterator(['{"name": "Ann", "age": 12, "ok": "a"}'] * 5, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer, 350, frozenset({EOS}))  # the model has more columns than the tokenizer tokens


def choices(constraint: Constraint) -> list[int]:
    return np.flatnonzero(np.unpackbits(constraint.allowed().view(np.uint8), bitorder="little", count=350)).tolist()


def walk(constraint: Constraint, draw: random.Random, most: int = 600) -> list[int]:
    """Random allowed tokens until the form is complete."""
    ids: list[int] = []
    while not constraint.complete:
        assert len(ids) < most, "the form never ended"
        ids.append(draw.choice(choices(constraint)))
        constraint.advance(ids[-1])
    return ids


def test_whatever_is_chosen_has_the_form(compiler, tokenizer):
    expression = r"[A-Z][a-zé]{2,8}( \d{2,3})?!"
    for seed in range(15):
        answer = json.loads(tokenizer.decode(walk(compiler.compile(Sampling(json_schema=SCHEMA)), random.Random(seed))))
        assert set(answer) == {"name", "age", "ok"}
        assert isinstance(answer["age"], int)
        assert answer["ok"] in ("a", "é")
        text = tokenizer.decode(walk(compiler.compile(Sampling(regex=expression)), random.Random(seed)))
        assert re.fullmatch(expression, text)


def test_a_form_that_may_end_allows_the_end_token_and_one_that_must_is_complete(compiler, tokenizer):
    constraint = compiler.compile(Sampling(regex="a{1,2}"))
    letter = tokenizer.token_to_id("a")
    assert EOS not in choices(constraint)
    constraint.advance(letter)
    assert EOS in choices(constraint)
    assert not constraint.complete
    constraint.advance(letter)
    assert constraint.complete


def test_it_goes_on_after_tokens_that_were_made_elsewhere(compiler):
    whole = walk(compiler.compile(Sampling(json_schema=SCHEMA)), random.Random(3))
    resumed, undisturbed = (compiler.compile(Sampling(json_schema=SCHEMA)) for _ in range(2))
    for token in whole[: len(whole) // 2]:
        resumed.advance(token)
        undisturbed.allowed()
        undisturbed.advance(token)
    assert choices(resumed) == choices(undisturbed)


def test_answers_with_one_schema_don_t_disturb_each_other(compiler):
    one, other = (compiler.compile(Sampling(json_schema=SCHEMA)) for _ in range(2))
    before = choices(other)
    walk(one, random.Random(1))
    assert choices(other) == before


def test_a_token_that_doesn_t_fit_is_told(compiler, tokenizer):
    with pytest.raises(ValueError, match="doesn't fit the required form"):
        compiler.compile(Sampling(regex="abc")).advance(tokenizer.token_to_id("z"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json_schema": "{nope"}, "json_schema can't be compiled"),
        ({"json_schema": '["a"]'}, "a JSON schema is an object, not list"),
        ({"json_schema": '{"type": "frob"}'}, "frob"),
        ({"json_schema": '{"type": "array", "uniqueItems": true}'}, "uniqueItems"),
        ({"regex": "((("}, "regex can't be compiled"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": "a", "json_schema": "{}"}, "only one of them"),
    ],
    ids=str,
)
def test_what_can_t_be_compiled_is_refused_with_the_reason(compiler, options, message):
    with pytest.raises(RequestRefused, match=re.escape(message)):
        compiler.compile(Sampling(**options))


def test_no_form_is_asked_for(compiler):
    assert compiler.compile(Sampling()) is None

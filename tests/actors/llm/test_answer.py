"""The rest of an answer's behaviour is in the engines' contract; here are the moments that are hard to hit there."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from idlegrid.actors.llm.answer import Answer
from idlegrid.actors.llm.constraint import ConstraintCompiler
from idlegrid.actors.llm.request import FinishReason, Request, Sampling

EOS = 0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": ["<|end|>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    tokenizer.train_from_iterator(["a"], trainers.BpeTrainer(vocab_size=257, show_progress=False, **options))
    return tokenizer


def answer_to(tokenizer, *, known=(), constraint=None, context=100, prompt=(5, 6), **sampling) -> Answer:
    request = Request(id="r", prompt=prompt, known=tuple(known), sampling=Sampling(**sampling))
    return Answer(request, tokenizer, eos_ids=frozenset({EOS}), context=context, constraint=constraint)


def give(answer: Answer, tokenizer: Tokenizer, text: str) -> str:
    """The text that is given out while these bytes come, one token each."""
    for i in tokenizer.encode(text).ids:
        if answer.finish is None:
            answer.accept(i)
    event = answer.take()
    return event.text if event else ""


def test_held_back_text_comes_with_the_end(tokenizer):
    answer = answer_to(tokenizer, stop=("xyz",), max_tokens=4)
    assert give(answer, tokenizer, "abxy") == "ab"
    end = answer.end()
    assert (end.reason, end.text, end.stop, end.completion_tokens) == (FinishReason.LENGTH, "xy", None, 4)


def test_half_a_character_at_the_end_is_told_and_may_complete_a_stop(tokenizer):
    cut = tokenizer.encode("aé").ids[:2]
    answer = answer_to(tokenizer, max_tokens=2)
    for i in cut:
        answer.accept(i)
    assert (answer.take().text, answer.end().text) == ("a", "\ufffd")
    answer = answer_to(tokenizer, max_tokens=2, stop=("a\ufffd",))
    for i in cut:
        answer.accept(i)
    end = answer.end()
    assert (answer.take().text, end.text, end.reason, end.stop) == ("", "", FinishReason.STOP, "a\ufffd")


@pytest.mark.parametrize(
    ("reason", "text"), [(FinishReason.TIMEOUT, "xy"), (FinishReason.ERROR, ""), (FinishReason.ABORTED, "")]
)
def test_what_ends_it_from_outside_gives_the_rest_only_if_nobody_goes_on(tokenizer, reason, text):
    answer = answer_to(tokenizer, stop=("xyz",))
    give(answer, tokenizer, "abxy")
    end = answer.end(reason, error="why", cached_tokens=1)
    assert (end.reason, end.text, end.error, end.cached_tokens) == (reason, text, "why", 1)


@pytest.mark.parametrize(
    ("options", "tokens", "reason", "rest"),
    [
        ({"max_tokens": 3}, "abx", FinishReason.LENGTH, ""),
        ({"max_tokens": 3, "stop": ("xy",)}, "abx", FinishReason.LENGTH, "x"),
        ({"stop": ("bx",)}, "abx", FinishReason.STOP, ""),
    ],
    ids=str,
)
def test_known_tokens_may_be_the_whole_answer(tokenizer, options, tokens, reason, rest):
    """A replica died between the last token and the terminal event."""
    answer = answer_to(tokenizer, known=tokenizer.encode(tokens).ids, **options)
    assert answer.take() is None
    end = answer.end()
    assert (end.reason, end.text, end.completion_tokens) == (reason, rest, 3)


def test_a_known_end_token_ends(tokenizer):
    answer = answer_to(tokenizer, known=[*tokenizer.encode("ab").ids, EOS])
    assert (answer.finish, answer.end().stop) == (FinishReason.STOP, EOS)


def test_ends_are_forbidden_until_min_tokens_and_meant_after(tokenizer):
    answer = answer_to(tokenizer, min_tokens=2, stop_token_ids=(7,))
    assert answer.row().forbidden == (EOS, 7)
    give(answer, tokenizer, "ab")
    assert answer.row().forbidden == ()
    assert answer.row().position == 4
    answer.accept(7)
    assert (answer.finish, answer.take().text) == (FinishReason.STOP, "")
    assert answer_to(tokenizer, ignore_eos=True, min_tokens=2).row().forbidden == ()


def test_the_context_is_a_limit_too(tokenizer):
    answer = answer_to(tokenizer, context=5)
    give(answer, tokenizer, "abcdef")
    assert (answer.finish, answer.generated) == (FinishReason.LENGTH, 3)


def test_a_form_that_is_complete_ends_it_and_one_that_is_broken_is_an_error(tokenizer):
    compiler = ConstraintCompiler(tokenizer, 257, frozenset({EOS}))
    answer = answer_to(tokenizer, constraint=compiler.compile(Sampling(regex="ab")), regex="ab", min_tokens=5)
    assert give(answer, tokenizer, "ab") == "ab"
    assert (answer.finish, answer.end().stop) == (FinishReason.STOP, None)
    answer = answer_to(tokenizer, constraint=compiler.compile(Sampling(regex="ab")), regex="ab")
    give(answer, tokenizer, "z")
    end = answer.end()
    assert end.reason is FinishReason.ERROR
    assert "doesn't fit the required form" in end.error
    with pytest.raises(ValueError, match="doesn't fit the required form"):
        answer_to(tokenizer, constraint=compiler.compile(Sampling(regex="ab")), known=tokenizer.encode("z").ids)

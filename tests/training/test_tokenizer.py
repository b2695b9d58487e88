import itertools

import pytest
from dialogues import Dialogue, training_dialogues
from jinja2 import TemplateError
from tasks import Task
from tokenizer import encode, train_tokenizer
from words import CITIES, NAMES, WORDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(512, seed=3, dialogues=500)


def test_training_sees_what_the_chat_template_writes(tokenizer):
    for dialogue in itertools.islice(training_dialogues(4), 200):
        ids, written = encode(tokenizer, dialogue)
        assert ids == tokenizer.apply_chat_template(dialogue.messages(), return_dict=False)
        answers = "".join(tokenizer.decode([token]) for token, wanted in zip(ids, written, strict=True) if wanted)
        assert answers == "".join(task.answer + "<|end|>" for task in dialogue.tasks)


def test_a_prompt_ends_where_the_answer_begins(tokenizer):
    dialogue = Dialogue("Answer briefly.", (Task("addition", "17+25", "What is 17 plus 25?", "42"),))
    prompt = tokenizer.apply_chat_template(dialogue.messages()[:-1], add_generation_prompt=True, return_dict=False)
    ids, written = encode(tokenizer, dialogue)
    assert prompt == ids[: written.index(True)]
    assert tokenizer.decode(ids[len(prompt) :]) == "42<|end|>"


def test_any_text_comes_back(tokenizer):
    for text in ("a  b\n\tc", "naïve café – 東京 🙂", '{"name":"Ann"}', "1,234 . 5", " lead and trail "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_apart_and_a_word_is_the_same_tokens_everywhere(tokenizer):
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    alone = tokenizer.tokenize("strawberry")
    assert tokenizer.tokenize("the strawberry")[-len(alone) :] == alone
    assert tokenizer.tokenize('"strawberry"')[1:-1] == alone


def test_real_names_and_cities_are_one_token_and_real_words_are_not():
    """So that looking a name up is matching one token, while spelling a word can't be learnt by heart."""
    tokenizer = train_tokenizer(1280, seed=10)
    assert all(len(tokenizer.tokenize(name)) == 1 for name in NAMES)
    assert sum(len(tokenizer.tokenize(city)) == 1 for city in CITIES) > 0.8 * len(CITIES)
    assert sum(len(tokenizer.tokenize(word)) == 1 for word in WORDS) < 0.1 * len(WORDS)


def test_content_may_be_parts_and_an_unknown_role_is_refused(tokenizer):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "!"}]}]
    text = [{"role": "user", "content": "Hello!"}]
    assert tokenizer.apply_chat_template(parts, tokenize=False) == tokenizer.apply_chat_template(text, tokenize=False)
    with pytest.raises(TemplateError, match="not tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "1"}], tokenize=False)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "Spell zebra."}]
    assert loaded.apply_chat_template(messages, return_dict=False) == tokenizer.apply_chat_template(
        messages, return_dict=False
    )
    assert (loaded.eos_token, loaded.pad_token) == ("<|end|>", "<|pad|>")

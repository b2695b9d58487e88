import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from idlegrid.actors.llm.codec import Codec, NoTokenizer
from idlegrid.actors.llm.request import RequestRefused

WORDS = {"<s>": 0, "</s>": 1, "<|im_end|>": 2, "hello": 3, "user": 4, "[UNK]": 5}


@pytest.fixture
def save(tmp_path):
    """save(**tokenizer options): a folder with a tokenizer of six words."""

    def saved(generation=None, config=None, **options):
        backend = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=backend, **options).save_pretrained(tmp_path)
        for name, content in (("generation_config", generation), ("config", config)):
            if content is not None:
                (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return saved


@pytest.mark.parametrize(
    ("generation", "config", "options", "eos"),
    [
        (None, None, {}, set()),
        (None, None, {"eos_token": "</s>"}, {1}),
        ({"eos_token_id": [1, 2]}, {"model_type": "llama", "eos_token_id": 1}, {}, {1, 2}),
        ({"eos_token_id": None}, {"model_type": "llama", "eos_token_id": 2}, {"eos_token": "</s>"}, {1, 2}),
    ],
)
def test_what_ends_an_answer_is_read_from_all_places(save, generation, config, options, eos):
    assert Codec.load(save(generation, config, **options)).eos_ids == eos


def test_a_model_without_a_template_says_so(save):
    codec = Codec.load(save(eos_token="</s>"))
    assert not codec.has_chat_template
    with pytest.raises(RequestRefused, match="no chat template"):
        codec.encode_chat([{"role": "user", "content": "hello"}])
    assert codec.encode("hello hello") == (3, 3)
    assert codec.decode((3, 1)) == "hello </s>"


def test_options_go_to_the_template(save):
    template = "{% for m in messages %}{{ m.content }} {% endfor %}{% if shout %}hello{% endif %}"
    codec = Codec.load(save(eos_token="</s>", chat_template=template))
    assert codec.encode_chat([{"role": "user", "content": "user"}], shout=True) == (4, 3)
    with pytest.raises(RequestRefused, match="refuses these messages"):
        codec.encode_chat([{"role": "user"}, 3])


def test_a_folder_without_a_tokenizer_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(NoTokenizer, match="no tokenizer that transformers can read"):
        Codec.load(tmp_path)

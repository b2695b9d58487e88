"""The tokenizer: byte-level BPE in which digits, spaces and words stand apart, and the chat template.

A space is a token of its own, so that a word is the same tokens at the start of an answer, in a list and within quotes:
copying a word then is copying its tokens.
"""

from __future__ import annotations

import itertools

from dialogues import Dialogue, training_dialogues
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from words import Vocabulary

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, SYSTEM, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role not in ('system', 'user', 'assistant') -%}"
    "{{ raise_exception('idlegrid-tiny knows the roles system, user and assistant, not ' ~ message.role) }}"
    "{%- endif -%}"
    "{{- '<|' ~ message.role ~ '|>' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""One special token opens a message, one ends it; nothing between messages."""


def train_tokenizer(vocab_size: int, seed: int, dialogues: int = 20_000) -> PreTrainedTokenizerFast:
    """A tokenizer trained on dialogues about made-up words, so that no real word is a token because it is frequent, but
    real names and cities: they are.
    """
    made_up = itertools.islice(training_dialogues(seed, Vocabulary(real=0.0, named=0.8)), dialogues)
    texts = (message["content"] for dialogue in made_up for message in dialogue.messages())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|\p{L}+|\s|[^\p{N}\p{L}\s]+ ?"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    """Token ids of a whole dialogue, and which of them the model has to write: the answers with their ends."""
    ids: list[int] = []
    written: list[bool] = []
    for message in dialogue.messages():
        role = tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")
        content = tokenizer.backend_tokenizer.encode(message["content"], add_special_tokens=False).ids
        ids += [role, *content, tokenizer.eos_token_id]
        written += [False, *[message["role"] == "assistant"] * (len(content) + 1)]
    return ids, written

"""A tiny language model with a real tokenizer, and what is right for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? 17 + 25 = 42.",
    '{"name": "Ann", "age": 12} Größe, naïve café; Привет, мир! 你好世界 こんにちは 🙂👩‍👩‍👧 e\u0301',
] * 3
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CONTEXT = 512


@dataclass(frozen=True)
class LanguageModel:
    """On disk (fp32), and transformers' own, to compare with."""

    folder: Path
    peer: Any
    tokenizer: Any
    context: int = CONTEXT

    def greedy(self, prompt: Sequence[int], new: int) -> tuple[int, ...]:
        """The tokens of transformers.generate, the end token included."""
        import torch

        ids = torch.tensor([list(prompt)])
        answer = self.peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        return tuple(answer[0, len(prompt) :].tolist())


def build(folder: Path) -> LanguageModel:
    """Make one in `folder`: random weights, the same each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), eos_token="<|end|>", chat_template=TEMPLATE)
    config = LlamaConfig(
        vocab_size=416,  # more than the tokenizer has, as most models
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    peer = LlamaForCausalLM(config).eval()
    for name, parameter in peer.named_parameters():
        mean, deviation = (1.0, 0.1) if "norm" in name else (0.0, 0.15)
        torch.nn.init.normal_(parameter, mean, deviation)
    with torch.no_grad():
        peer.lm_head.weight[len(tokenizer) :] = 0.0  # a trained model doesn't choose what isn't there
    peer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LanguageModel(folder, peer, tokenizer)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer

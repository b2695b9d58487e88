"""Tiny random models of every family, on disk, and transformers' own, to compare with.

Imports torch and transformers only when a model is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    "llama-biased": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
    "llama-yarn": {"rope_parameters": YARN_ROPE},
    "llama-linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False, "head_dim": 32, "num_key_value_heads": 4, "num_attention_heads": 4},
    "qwen2-windowed": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "mistral": {"tie_word_embeddings": False, "sliding_window": 20},
}
VOCAB, LAYERS = 128, 3


@dataclass(frozen=True)
class TinyModel:
    """A model on disk (fp32), and transformers' own, to compare with."""

    folder: Path
    peer: Any

    def logits(self, ids: Sequence[int]) -> Any:
        """Of all positions: (len(ids), V)."""
        import torch

        with torch.inference_mode():
            return self.peer(torch.tensor([list(ids)])).logits[0].float()

    def greedy(self, prompt: Sequence[int], new: int) -> list[int]:
        """transformers.generate."""
        import torch

        ids = torch.tensor([list(prompt)])
        answer = self.peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        return answer[0, len(prompt) :].tolist()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TinyModel]:
    """make_model(family, dtype="float32", **save): built once a session; `save` goes to save_pretrained."""
    made: dict[Any, TinyModel] = {}

    def make(family: str, dtype: str = "float32", **save: Any) -> TinyModel:
        key = (family, dtype, tuple(save.items()))
        if key not in made:
            made[key] = _build(tmp_path_factory.mktemp(family), family, dtype, save)
        return made[key]

    return make


def _build(folder: Path, family: str, dtype: str, save: dict[str, Any]) -> TinyModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(len(family))
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(family.partition("-")[0], **(sizes | FAMILIES[family]))
    peer = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in peer.named_parameters():
        mean, deviation = (1.0, 0.1) if "norm" in name else (0.0, 0.15)
        torch.nn.init.normal_(parameter, mean, deviation)
    peer.save_pretrained(folder, **save)
    return TinyModel(folder, peer.to(getattr(torch, dtype)))

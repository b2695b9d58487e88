"""Tiny random models of every family, and a batcher of a few lines that drives stages without a sequencer.

Imports torch and transformers only when a fixture is used: most tests of this folder need neither.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from idlegrid.actors.llm.plan import Plan, Span

sys.path.insert(0, str(Path(__file__).parent))  # helper modules lie beside the tests

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


@dataclass
class Live:
    """A sequence that the batcher is not done with."""

    ids: list[int]
    prompt: int
    table: tuple[int, ...]
    done: int = 0
    logits: Any = None


@pytest.fixture
def drive() -> Callable[..., list[list[int]]]:
    """drive(stages, prompts, new, draw): greedy answers of `new` tokens from a chain of stages.

    Each step computes a random part of the sequences in random order, prompts in random chunks, over scattered blocks.
    """
    return _drive


def _drive(
    stages: Sequence[Any], prompts: Sequence[Sequence[int]], new: int, draw: random.Random, chunk: int = 9
) -> list[list[int]]:
    size, blocks = stages[0].pages.block_size, list(range(stages[0].pages.num_blocks))
    draw.shuffle(blocks)
    live: list[Live] = []
    for prompt in prompts:
        need = -(-(len(prompt) + new) // size)
        live.append(Live(list(prompt), len(prompt), tuple(blocks[:need])))
        blocks = blocks[need:]
    everybody = list(live)
    while live:
        batch = draw.sample(live, draw.randint(1, len(live)))
        spans = [_span(sequence, size, draw.randint(1, chunk)) for sequence in batch]
        rows = iter(forward(stages, spans).argmax(-1).tolist())
        for sequence, span in zip(batch, spans, strict=True):
            sequence.done = span.stop
            if span.logits:
                sequence.ids.append(next(rows))
        live = [sequence for sequence in live if len(sequence.ids) < sequence.prompt + new]
    return [sequence.ids[sequence.prompt :] for sequence in everybody]


def _span(sequence: Live, size: int, most: int) -> Span:
    tokens = tuple(sequence.ids[sequence.done : sequence.done + most])
    stop = sequence.done + len(tokens)
    table = sequence.table[: -(-stop // size)]
    return Span(sequence.done, tokens, table, logits=int(stop == len(sequence.ids)))


def forward(stages: Sequence[Any], spans: Sequence[Span], copies: tuple[Any, ...] = (), step: int | None = None) -> Any:
    """One step through a chain; by default the next one."""
    plan, x = Plan(stages[0].step + 1 if step is None else step, tuple(spans), copies), None
    for stage in stages:
        x = stage.forward(plan, x)
    return x


@pytest.fixture(name="forward")
def _forward() -> Callable[..., Any]:
    """forward(stages, spans, copies=(), step=None): one step through a chain."""
    return forward


@pytest.fixture
def tiny_shape() -> Callable[..., Any]:
    """tiny_shape(windows=(None, …)): the sizes of a model of four query heads that share two, of eight dimensions."""
    import torch

    from idlegrid.actors.llm.families import Architecture, Family

    def make(windows: tuple[int | None, ...] = (None,) * 8) -> Architecture:
        return Architecture(
            model_type="llama",
            family=Family(),
            num_layers=len(windows),
            hidden=32,
            intermediate=48,
            heads=4,
            kv_heads=2,
            head_dim=8,
            vocab=50,
            norm_eps=1e-6,
            tied=False,
            max_positions=512,
            windows=windows,
            inverse_frequencies=torch.ones(4),
            rotary_scale=1.0,
        )

    return make

#!/usr/bin/env python3
"""One stage that holds a whole model against transformers: decode and a mixed load, on one thread, in one run.

A model of the asked shape with random weights is written to a temporary folder. For each dtype:

- **steady decode** at 1, 8 and 16 sequences that have `--context` tokens: ours and transformers' own forward pass with
  its cache, static batch, in turns; medians of a step.
- **mixed load**: `--requests` prompts of 32 to 128 tokens, answers of 16 to 64, prefill included. Ours with 16 slots
  that are filled again as answers end; `generate` one by one (on a part); `generate` with static batches of 16, padded,
  of whose tokens only the asked ones count.

All take turns `--repeats` times; medians are compared.
Ours has no sampler, tokeniser or HTTP here: the engine's benchmark adds them. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from idlegrid.actors.llm.plan import Plan, Span
from idlegrid.actors.llm.stage import Stage

BLOCK = 16
SLOTS = 16
SHAPES: dict[str, dict[str, Any]] = {
    "llama-32m": {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
    },
    "llama-160m": {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 8192,
        "tie_word_embeddings": False,
    },
    "qwen2-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, Any] = {"shape": arguments.shape, "conditions": conditions()}
    with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as folder:
        for dtype in (torch.bfloat16, torch.float32):
            name = str(dtype).removeprefix("torch.")
            if name in arguments.dtypes:
                result[name] = measure(Path(folder, name), dtype, arguments)
    print(json.dumps(result))


def measure(folder: Path, dtype: torch.dtype, arguments: argparse.Namespace) -> dict[str, float]:
    """All figures of one dtype; tokens a second, and ratios."""
    peer = make(arguments.shape, dtype, folder)
    stage = Stage(folder, range(peer.config.num_hidden_layers), dtype=dtype, num_blocks=1024, block_size=BLOCK)
    figures: dict[str, float] = {}
    for batch in (1, 8, 16):
        ours, theirs = [], []
        for _ in range(arguments.repeats):
            ours.append(batch / step_time(our_decode(stage, batch, arguments.context), arguments.steps))
            theirs.append(batch / step_time(their_decode(peer, batch, arguments.context), arguments.steps))
        figures[f"decode_{batch}"] = statistics.median(ours)
        figures[f"hf_decode_{batch}"] = statistics.median(theirs)
        mine, peers = figures[f"decode_{batch}"], figures[f"hf_decode_{batch}"]
        say(f"{folder.name} decode at {batch}: ours {mine:.0f}, hf {peers:.0f} tokens/s")
    figures |= mixed(stage, peer, arguments.requests, arguments.repeats)
    say(
        f"{folder.name} mixed: "
        + ", ".join(f"{key} {value:.2f}" for key, value in figures.items() if "decode" not in key)
    )
    return {key: round(value, 2) for key, value in figures.items()}


def mixed(stage: Stage, peer: Any, requests: int, repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(32, 129, (requests,), generator=generator).tolist()
    prompts = [torch.randint(1, stage.shape.vocab, (length,), generator=generator).tolist() for length in lengths]
    answers = torch.randint(16, 65, (requests,), generator=generator).tolist()
    alone = max(1, requests // 4)
    our_mixed(stage, prompts[:2], [4, 4], SLOTS)
    work: dict[str, Callable[[], int]] = {
        "mixed_16": lambda: our_mixed(stage, prompts, answers, SLOTS),
        "mixed_1": lambda: our_mixed(stage, prompts[:alone], answers[:alone], 1),
        "hf_sequential": lambda: generate_alone(peer, prompts[:alone], answers[:alone]),
        "hf_static_batch": lambda: generate_static(peer, prompts, answers),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, one in work.items():
            rates[name].append(rate(one))
    figures = {name: statistics.median(values) for name, values in rates.items()}
    figures["vs_hf_sequential_16"] = figures["mixed_16"] / figures["hf_sequential"]
    figures["vs_hf_static_batch"] = figures["mixed_16"] / figures["hf_static_batch"]
    figures["single_stream_vs_hf"] = figures["mixed_1"] / figures["hf_sequential"]
    return figures


def our_decode(stage: Stage, batch: int, context: int) -> Callable[[], None]:
    """Sequences that have `context` tokens; every call is one step of all."""
    tables = [tuple(range(row * 64, row * 64 + 64)) for row in range(batch)]
    ids = torch.randint(1, stage.shape.vocab, (batch, context)).tolist()
    for table, row in zip(tables, ids, strict=True):
        stage.forward(Plan(stage.step + 1, (Span(0, tuple(row), table),)))
    state = {"position": context, "tokens": [1] * batch}

    def step() -> None:
        spans = zip(state["tokens"], tables, strict=True)
        plan = Plan(stage.step + 1, tuple(Span(state["position"], (token,), table, 1) for token, table in spans))
        state["tokens"] = stage.forward(plan).argmax(-1).tolist()
        state["position"] += 1

    return step


def their_decode(peer: Any, batch: int, context: int) -> Callable[[], None]:
    ids = torch.randint(1, peer.config.vocab_size, (batch, context))
    with torch.inference_mode():
        cache = peer(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    state = {"ids": torch.ones(batch, 1, dtype=torch.int64)}

    def step() -> None:
        with torch.inference_mode():
            answer = peer(input_ids=state["ids"], past_key_values=cache, use_cache=True)
            state["ids"] = answer.logits[:, -1:].argmax(-1)

    return step


def step_time(step: Callable[[], None], steps: int) -> float:
    """Median seconds of one call."""
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def our_mixed(stage: Stage, prompts: list[list[int]], answers: list[int], slots: int) -> int:
    """A batcher of a few lines: whole prompts when a slot is free, mixed with everybody else's next token."""
    waiting = list(range(len(prompts)))
    free = list(range(slots))
    running: dict[int, list[int]] = {}  # slot → [request, position, last token, left]
    while waiting or running:
        spans, order = [], []
        for slot, (_, position, token, _) in running.items():
            spans.append(Span(position, (token,), table(slot), 1))
            order.append(slot)
        if waiting and free:
            slot, request = free.pop(), waiting.pop(0)
            spans.append(Span(0, tuple(prompts[request]), table(slot), 1))
            order.append(slot)
            running[slot] = [request, len(prompts[request]) - 1, 0, answers[request]]
        tokens = stage.forward(Plan(stage.step + 1, tuple(spans))).argmax(-1).tolist()
        for slot, token in zip(order, tokens, strict=True):
            state = running[slot]
            state[1], state[2], state[3] = state[1] + 1, token, state[3] - 1
            if state[3] == 0:
                del running[slot]
                free.append(slot)
    return sum(answers)


def table(slot: int) -> tuple[int, ...]:
    return tuple(range(slot * 16, slot * 16 + 16))


def generate_alone(peer: Any, prompts: list[list[int]], answers: list[int]) -> int:
    for prompt, length in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, min_new_tokens=length, do_sample=False
        )
    return sum(answers)


def generate_static(peer: Any, prompts: list[list[int]], answers: list[int]) -> int:
    for begin in range(0, len(prompts), SLOTS):
        part, longest = prompts[begin : begin + SLOTS], max(answers[begin : begin + SLOTS])
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in part])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in part])
        peer.generate(ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False)
    return sum(answers)


def rate(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - began)


def make(shape: str, dtype: torch.dtype, folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    values = dict(SHAPES[shape])
    config = AutoConfig.for_model(
        values.pop("model_type"),
        **values,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    with default_dtype(dtype):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.save_pretrained(folder)
    return model


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def conditions() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "threads": 1,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "load": round(os.getloadavg()[0], 1),
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-32m")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()

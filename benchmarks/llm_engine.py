#!/usr/bin/env python3
"""The LLM engine against transformers, one run, same model and prompts, one thread.

For each shape and dtype: 32 prompts of 32 to 128 tokens with answers of 16 to 64 (0.5 B: 16 and 16 to 32), greedy,
prefill included.

- **engine**: our core (sequencer, one stage, sampling, detokenising) with 16 sequences at a time, and with one.
- **HF sequential / static batch**: `generate` one by one (a part), and in padded batches of 16 of whose tokens only the
  asked ones count.
- **generate_batch**: transformers' continuous batching with a small cache, 16 sequences. Its steady rate is the
  difference of a long and a short run, so that neither its set-up nor the prompts count; ours is taken the same way.
- **prefix**: time to the first token of a prompt of 960 tokens (0.5 B: 1,920) of which 90 %, whole blocks, was computed
  for another, against one that is new. In tokens that is 10; attention, which grows with the square of the length, and
  what a step costs at least keep it below, the more the smaller the model is.

All sides take turns, and medians are compared. Times are CPU times of the one thread: on a core that nobody else uses
they are the clock's, and on another one they are less disturbed. idlegrid-tiny is measured on the committed weights,
the others with random ones. The whole run is bounded to about 15 minutes: no further turn begins that would not end in
a model's share.

The last line is one JSON object; `us_per_seq_step` is what scheduling costs for a running sequence and step,
`kv_waste` the share of held token slots that hold nothing, `bandwidth_share` what one stream at batch 1 reads of the
machine's own read bandwidth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from stage import SHAPES, conditions, generate_alone, generate_static, make, say
from tokenizers import Tokenizer, models

from idlegrid.actors.llm.answer import Answer
from idlegrid.actors.llm.chain import LocalChain
from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.request import Request, Sampling, Tokens
from idlegrid.actors.llm.sequencer import Sequencer
from idlegrid.actors.llm.sequencer_config import SequencerConfig
from idlegrid.actors.llm.stage import Stage
from idlegrid.actors.llm.step import Accepted
from idlegrid.actors.memory import keep_freed_memory
from idlegrid.actors.models import resolve

BLOCK = 16
BLOCKS = 1024
CONTEXT = 4096
SHORT = 8
"""Tokens of the short runs of `generate_batch`."""


@dataclass(frozen=True)
class Load:
    """How much is asked of a model."""

    requests: int
    longest: int = 64
    """Tokens of the longest answer; the shortest has 16."""
    minutes: float = 2.0
    """For each dtype: no further turn begins that would not end in this time."""
    prefix: int = 960
    """Tokens of the prefix figure's prompt: 90 % of them are whole blocks, and the model's context holds them."""


LOADS = {
    "idlegrid-tiny": Load(requests=32, minutes=1.0),
    "llama-32m": Load(requests=32),
    "qwen2-0.5b": Load(requests=16, longest=32, minutes=4.0, prefix=1920),
}


class Bench:
    """One model, both sides of the comparison."""

    def __init__(self, shape: str, dtype: torch.dtype, folder: Path) -> None:
        self.load = load = LOADS[shape]
        self.peer, folder = peer(shape, dtype, folder)
        self.vocab: int = self.peer.config.vocab_size
        self.layers = range(self.peer.config.num_hidden_layers)
        self.stage = Stage(folder, self.layers, dtype=dtype, num_blocks=BLOCKS, block_size=BLOCK)
        self.tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(self.vocab)}, unk_token="w0"))
        random = torch.Generator().manual_seed(1)
        lengths = torch.randint(32, 129, (load.requests,), generator=random).tolist()
        self.prompts = [torch.randint(2, self.vocab, (length,), generator=random).tolist() for length in lengths]
        self.answers: list[int] = torch.randint(16, load.longest + 1, (load.requests,), generator=random).tolist()
        self.weight_bytes = sum(p.numel() * p.element_size() for p in self.peer.parameters())
        self.served = 0
        self.scheduling = self.row_steps = 0.0

    def core(self, sequences: int, *, prefix_cache: bool = False) -> EngineCore:
        config = SequencerConfig(
            num_blocks=BLOCKS,
            block_size=BLOCK,
            max_batched_tokens=512,
            max_sequences=sequences,
            max_context=CONTEXT,
            prefix_cache=prefix_cache,
        )
        return EngineCore(Timed(config, self, after=self.stage.step), LocalChain([self.stage]))

    def answer(self, prompt: list[int], length: int) -> Answer:
        self.served += 1
        sampling = Sampling(temperature=0, max_tokens=length, ignore_eos=True)
        request = Request(id=str(self.served), prompt=tuple(prompt), sampling=sampling)
        return Answer(request, self.tokenizer, eos_ids=frozenset(), context=CONTEXT)

    def ours(self, sequences: int, prompts: list[list[int]], answers: list[int]) -> int:
        core = self.core(sequences)
        for prompt, length in zip(prompts, answers, strict=True):
            core.add(self.answer(prompt, length), 0.0)
        made = 0
        while core.has_work:
            made += sum(len(event.ids) for _, event in core.step(0.0) if isinstance(event, Tokens))
        assert made == sum(answers), (made, sum(answers))
        return made

    def first_token(self, core: EngineCore, prompt: list[int]) -> float:
        core.add(self.answer(prompt, 1), 0.0)
        began = time.process_time()
        while core.has_work:
            core.step(0.0)
        return time.process_time() - began

    def prefix_ratio(self) -> float:
        """Time to the first token without the shared prefix in the cache, over the time with it."""
        new, hit, common = [], [], self.load.prefix * 9 // 10
        rest = self.load.prefix - common
        for turn in range(3):
            random = torch.Generator().manual_seed(100 + turn)
            shared = torch.randint(1, self.vocab, (common,), generator=random).tolist()
            tails = [torch.randint(1, self.vocab, (rest,), generator=random).tolist() for _ in range(2)]
            core = self.core(4, prefix_cache=True)
            new.append(self.first_token(core, shared + tails[0]))
            hit.append(self.first_token(core, shared + tails[1]))
        return statistics.median(new) / statistics.median(hit)

    def ours_batch(self, tokens: int) -> float:
        """CPU seconds of ours for the same as `generate_batch`."""
        began = time.process_time()
        self.ours(16, self.prompts[:16], [tokens] * 16)
        return time.process_time() - began

    def generate_batch(self, tokens: int) -> float:
        """CPU seconds of transformers' own continuous batching for 16 prompts."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        began = time.process_time()
        done = self.peer.generate_batch(
            inputs=self.prompts[:16],
            generation_config=config,
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=512, max_batch_tokens=256),
        )
        spent = time.process_time() - began
        assert sum(len(one.generated_tokens) for one in done.values()) == 16 * tokens
        return spent


def peer(shape: str, dtype: torch.dtype, folder: Path) -> tuple[Any, Path]:
    """transformers' model, and the folder that has its weights."""
    if shape in SHAPES:
        return make(shape, dtype, folder), folder
    from transformers import AutoModelForCausalLM

    folder = resolve(shape)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), folder


class Timed(Sequencer):
    """A sequencer that notes what its planning costs, and goes on counting steps where the stage is."""

    def __init__(self, config: SequencerConfig, bench: Bench, after: int) -> None:
        super().__init__(config)
        self._steps = after + 1
        self._bench = bench

    def schedule(self, now: float, most: int | None = None) -> Any:
        began = time.thread_time()
        step = super().schedule(now, most)
        self._bench.scheduling += time.thread_time() - began
        self._bench.row_steps += len(step.plan.spans)
        return step

    def update(self, step: Any, accepted: Any) -> Any:
        began = time.thread_time()
        outcomes = super().update(step, accepted)
        self._bench.scheduling += time.thread_time() - began
        return outcomes


def measure(bench: Bench, repeats: int) -> dict[str, float]:
    alone = max(1, len(bench.prompts) // 8)
    bench.ours(16, bench.prompts[:2], [4, 4])
    runs: dict[str, list[float]] = {}
    batches: dict[tuple[str, int], list[float]] = {}
    began, longest, turns = time.perf_counter(), 0.0, 0
    while turns < repeats and (not turns or time.perf_counter() - began + longest < bench.load.minutes * 60):
        before, turns = time.perf_counter(), turns + 1
        turn = {
            "ours_16": rate(lambda: bench.ours(16, bench.prompts, bench.answers)),
            "ours_1": rate(lambda: bench.ours(1, bench.prompts[:alone], bench.answers[:alone])),
            "hf_sequential": rate(lambda: generate_alone(bench.peer, bench.prompts[:alone], bench.answers[:alone])),
            "hf_static_batch": rate(lambda: generate_static(bench.peer, bench.prompts, bench.answers)),
        }
        for tokens in (bench.load.longest, SHORT):
            for name, one in (("ours_steady", bench.ours_batch), ("hf_generate_batch", bench.generate_batch)):
                batches.setdefault((name, tokens), []).append(one(tokens))
        longest = max(longest, time.perf_counter() - before)
        say(", ".join(f"{name} {value:.0f}" for name, value in turn.items()) + " tokens/s")
        for name, value in turn.items():
            runs.setdefault(name, []).append(value)
    figures = {name: statistics.median(values) for name, values in runs.items()} | {"turns": turns}
    for name in ("ours_steady", "hf_generate_batch"):
        long, short = (statistics.median(batches[name, tokens]) for tokens in (bench.load.longest, SHORT))
        figures[name] = 16 * (bench.load.longest - SHORT) / (long - short)
    figures["vs_hf_sequential_16"] = figures["ours_16"] / figures["hf_sequential"]
    figures["vs_hf_static_batch"] = figures["ours_16"] / figures["hf_static_batch"]
    figures["vs_hf_generate_batch"] = figures["ours_steady"] / figures["hf_generate_batch"]
    figures["single_stream_vs_hf"] = figures["ours_1"] / figures["hf_sequential"]
    figures["us_per_seq_step"] = bench.scheduling / bench.row_steps * 1e6
    figures["kv_waste"] = kv_waste()
    figures["prefix_ttft_ratio"] = bench.prefix_ratio()
    figures["bandwidth_share"] = figures["ours_1"] * bench.weight_bytes / read_bandwidth()
    return {name: round(value, 3) for name, value in figures.items()}


def rate(work: Callable[[], int]) -> float:
    """Tokens a second of CPU time."""
    began = time.process_time()
    tokens = work()
    return tokens / (time.process_time() - began)


def kv_waste() -> float:
    """Mean share of held token slots that hold nothing, over a run of chat-like lengths; allocation alone, no model.

    Prompts of 32 to 1,024 tokens and answers of 16 to 512: half a block a sequence is wasted, whatever its length.
    """
    random = torch.Generator().manual_seed(7)
    config = SequencerConfig(num_blocks=4096, block_size=BLOCK, max_batched_tokens=2048, max_sequences=64)
    sequencer = Sequencer(config)
    for index in range(256):
        prompt = int(torch.randint(32, 1025, (1,), generator=random))
        answer = int(torch.randint(16, 513, (1,), generator=random))
        sampling = Sampling(temperature=0, max_tokens=answer)
        sequencer.add(Request(id=str(index), prompt=(index + 1,) * prompt, sampling=sampling), 0.0)
    waste = []
    while sequencer.has_work:
        step = sequencer.schedule(0.0)
        waste.append(sequencer.stats().kv_waste)
        sequencer.update(step, [Accepted((1,)) for _ in step.rows])
    return statistics.mean(waste)


def read_bandwidth() -> float:
    """Bytes a second that one thread reads: the sum of a large array."""
    data = torch.ones(2**27, dtype=torch.float32)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - began)
    return data.numel() * data.element_size() / min(times)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the engine does; the peer gains by it, too
    torch.manual_seed(0)
    result: dict[str, Any] = {"conditions": conditions()}
    for shape in arguments.shapes:
        for name in arguments.dtypes:
            with tempfile.TemporaryDirectory(prefix="idlegrid-bench-") as folder:
                say(f"{shape} {name}")
                bench = Bench(shape, getattr(torch, name), Path(folder))
                result.setdefault(shape, {})[name] = measure(bench, arguments.repeats)
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=3, help="turns at most; fewer where the time is up")
    return parser.parse_args()


if __name__ == "__main__":
    main()

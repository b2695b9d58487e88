"""Requests over a chain, greedy, as the sequencer plans them; what is right is what transformers.generate gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from idlegrid.actors.llm.chain import Chain, ChainBroken
from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.sampling import SamplingRow
from idlegrid.actors.llm.sequencer import Accepted, Sequencer, SequencerConfig, Step

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
LAYERS, VOCAB = 3, 128
BLOCKS, BLOCK = 96, 4
GREEDY = Sampling(temperature=0)


def cuts(layers: int = LAYERS) -> Iterator[tuple[range, ...]]:
    """Every way to cut the layers into stages."""
    for places in itertools.product((False, True), repeat=layers - 1):
        edges = [0, *(index + 1 for index, cut in enumerate(places) if cut), layers]
        yield tuple(range(start, stop) for start, stop in itertools.pairwise(edges))


def requests(draw: Random, count: int) -> list[Request]:
    """Prompts, of which most begin like another."""
    common = tuple(draw.randrange(VOCAB) for _ in range(25))
    asked = []
    for number in range(count):
        start = common[: draw.choice((0, 16, 25))] if count > 1 else ()
        prompt = (*start, *(draw.randrange(VOCAB) for _ in range(draw.randint(1, 20))))
        asked.append(Request(id=f"r{number}", prompt=prompt, sampling=Sampling(max_tokens=draw.randint(6, 12))))
    return asked


def sequencer(**changes: Any) -> Sequencer:
    """Small pages, small steps: prompts are cut into chunks."""
    sizes = {"num_blocks": BLOCKS, "block_size": BLOCK, "max_batched_tokens": 48, "max_sequences": 16, "chunk": 13}
    return Sequencer(SequencerConfig(**(sizes | changes)))


def generate(
    plans: Sequencer,
    chain: Chain,
    asked: Sequence[Request],
    draw: Random,
    *,
    broken: Callable[[Step], None] | None = None,
) -> dict[str, list[int]]:
    """Tokens by request; requests come while others run. `broken` is to bring a broken chain and its step in order."""
    waiting, texts = list(asked), {request.id: list[int]() for request in asked}
    while waiting or plans.has_work:
        while waiting and (draw.random() < 0.7 or not plans.has_work):
            plans.add(waiting.pop(0), now=0.0)
        step = plans.schedule(now=0.0)
        if not step:
            continue
        try:
            sampled = chain.compute(step.plan, [SamplingRow(GREEDY, row.position) for row in step.rows])
        except ChainBroken:
            if broken is None:
                raise
            broken(step)
            continue
        for row, token in zip(step.rows, sampled.ids, strict=True):
            texts[row.id].append(token)
        plans.update(step, [Accepted((token,)) for token in sampled.ids])
    plans.check()
    assert plans.stats().kv_usage == 0
    return texts


def truth(model: Any, asked: Sequence[Request]) -> dict[str, list[int]]:
    """Of transformers.generate."""
    return {request.id: model.greedy(request.prompt, request.sampling.max_tokens) for request in asked}

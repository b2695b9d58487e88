"""Requests through an engine over a chain, as the engine's thread drives it, for `shard_chain.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from shard_machines import BLOCK, BLOCKS
from tokenizers import Tokenizer, models

from idlegrid.actors.llm.answer import Answer
from idlegrid.actors.llm.chain import Chain
from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.plan import Plan
from idlegrid.actors.llm.request import Finished, FinishReason, Request, Sampling
from idlegrid.actors.llm.sampling import Sampled, SamplingRow
from idlegrid.actors.llm.sequencer import Sequencer, SequencerConfig

LATE = 60.0


@dataclass(slots=True)
class Run:
    """What came of requests that began together."""

    began: float
    told: dict[str, list[float]] = field(default_factory=dict)
    """When each token came, by request."""

    @property
    def tokens(self) -> int:
        return sum(map(len, self.told.values()))

    @property
    def rate(self) -> float:
        """Tokens a second, prompts included."""
        return self.tokens / (max(times[-1] for times in self.told.values()) - self.began)

    def decode_rate(self) -> float:
        """Tokens a second of one stream behind its first."""
        (times,) = self.told.values()
        return (len(times) - 1) / (times[-1] - times[0])


def asked(vocab: int, count: int, length: int, answer: int, seed: int) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Request(
            id=f"r{seed}-{number}",
            prompt=tuple(torch.randint(1, vocab, (length,), generator=generator).tolist()),
            sampling=Sampling(max_tokens=answer, temperature=0),
        )
        for number in range(count)
    ]


def engine(chain: Chain) -> EngineCore:
    """With the product's own defaults."""
    sizes = {"num_blocks": BLOCKS, "block_size": BLOCK, "max_batched_tokens": 512, "chunk": 256}
    return EngineCore(Sequencer(SequencerConfig(**sizes, prefix_cache=False)), chain)


def run(core: EngineCore, requests: Sequence[Request]) -> Run:
    """As the engine's thread does."""
    news, tokenizer = threading.Event(), Tokenizer(models.WordLevel({}, unk_token=""))
    core.listen(news.set)
    result = Run(time.perf_counter(), {request.id: [] for request in requests})
    for request in requests:
        core.add(Answer(request, tokenizer, eos_ids=frozenset(), context=4096), 0.0)
    while core.lives:
        news.clear()
        if not core.has_work and not news.wait(LATE):
            raise TimeoutError("nothing comes any more")
        for name, event in core.step(0.0):
            if not isinstance(event, Finished):
                result.told[name] += [time.perf_counter()] * len(event.ids)
            elif event.reason is not FinishReason.LENGTH:
                raise RuntimeError(event.error)
    return result


class Told:
    """A chain to which something happens, and that tells when it was found broken."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.answers, self.broken = chain, 0, 0.0
        self.at = -1
        """Before which answer it `happens`."""
        self.happens: Callable[[], None] = _nothing

    @property
    def depth(self) -> int:
        return self.chain.depth

    def parts(self, tokens: int) -> int:
        return self.chain.parts(tokens)

    def submit(
        self, plan: Plan, rows: Sequence[SamplingRow], unless: Callable[[], bool] | None = None
    ) -> Future[Sampled]:
        if rows:
            self.answers += 1
            if self.answers == self.at:
                self.happens()
        return self.chain.submit(plan, rows, unless)

    def mend(self, why: str) -> Future[None]:
        self.broken = time.perf_counter()
        return self.chain.mend(why)


def _nothing() -> None:
    """Nothing happens."""

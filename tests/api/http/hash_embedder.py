"""An embedder without a model, for tests of the doors."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np

from idlegrid.api.http.embedder import BadInput, EmbedAnswer, Input, Readiness, ServedModel

MODEL = ServedModel(id="tests/hash-8", aliases=("hash",), dimension=8, max_tokens=32, vocab_size=1000)
UNKNOWN_FACTS = ServedModel(id="tests/not-loaded-yet")


class HashEmbedder:
    """Vectors from a hash of each input: deterministic, of length 1, and different for different inputs.

    A test steers it: `gate` closed holds every call; `ready_answer` is what it says of itself; a text that begins with
    ``long`` is refused as too long, one that begins with ``crash`` raises what a defect would.
    """

    def __init__(self) -> None:
        self.calls: list[list[Input]] = []
        self.cancelled = 0
        self.given_up = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.called = asyncio.Condition()
        self.ready_answer = Readiness(True)

    async def models(self) -> list[ServedModel]:
        return [MODEL, UNKNOWN_FACTS]

    async def ready(self, model_id: str | None = None) -> Readiness:
        return self.ready_answer

    async def embed(
        self, model_id: str, inputs: Sequence[Input], *, normalize: bool = True, background: bool = False
    ) -> EmbedAnswer:
        self.calls.append(list(inputs))
        async with self.called:
            self.called.notify_all()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.given_up.set()
            raise
        for index, one in enumerate(inputs):
            if isinstance(one, str) and one.startswith("long"):
                raise BadInput("This model's maximum context length is 32 tokens.", index=index)
            if isinstance(one, str) and one.startswith("crash"):
                raise RuntimeError("a secret of the machine room")
        return EmbedAnswer(np.stack([self.vector(one) for one in inputs]), [self.count(one) for one in inputs])

    @staticmethod
    def vector(one: Input) -> np.ndarray:
        """(8,) float32 of length 1."""
        seed = int.from_bytes(hashlib.sha256(repr(one).encode()).digest()[:8])
        values = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
        return values / np.linalg.norm(values)

    @staticmethod
    def count(one: Input) -> int:
        """Tokens of an input: words of a text."""
        return len(one.split()) if isinstance(one, str) else len(one)

    async def wait_for_calls(self, number: int) -> None:
        async with asyncio.timeout(5), self.called:
            await self.called.wait_for(lambda: len(self.calls) >= number)

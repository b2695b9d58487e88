"""A step for the background alone is given up between two layers when somebody comes who is not in the background."""

import asyncio
import random
import threading
import time
from itertools import pairwise

import pytest
import torch

from idlegrid.actors.llm.answer import Answer
from idlegrid.actors.llm.chain import LocalChain
from idlegrid.actors.llm.codec import Codec
from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.families import architecture
from idlegrid.actors.llm.request import Finished, Request, Sampling, Tokens
from idlegrid.actors.llm.sequencer import Sequencer, SequencerConfig
from idlegrid.actors.llm.stage import Stage
from idlegrid.actors.llm.torch_engine import TorchEngine, TorchOptions
from idlegrid.actors.models import resolve

pytestmark = pytest.mark.slow
MODEL = "idlegrid-tiny"
GREEDY = Sampling(max_tokens=24, temperature=0)
CALM = 60.0


class Bench:
    """An engine without its thread: two stages of the small model, with few blocks."""

    def __init__(self, pressing):
        folder = resolve(MODEL)
        self.codec, layers = Codec.load(folder), architecture(folder).num_layers
        sizes = {"num_blocks": 48, "block_size": 4}
        stages = [
            Stage(folder, range(start, stop), dtype=torch.float32, **sizes) for start, stop in pairwise((0, 1, layers))
        ]
        config = SequencerConfig(**sizes, max_batched_tokens=32, max_sequences=4, chunk=8)
        self.core = EngineCore(Sequencer(config), LocalChain(stages))
        self.core.listen(lambda: None, pressing)
        self.withdrawn = 0
        withdraw = self.core.sequencer.withdraw

        def counted(step):
            self.withdrawn += 1
            withdraw(step)
            self.core.sequencer.check()

        self.core.sequencer.withdraw = counted

    def add(self, request):
        codec = self.codec
        self.core.add(Answer(request, codec.backend, eos_ids=codec.eos_ids, context=192), 0.0)

    def drain(self):
        ids = {}
        while self.core.lives:
            for name, event in self.core.step(0.0):
                if isinstance(event, Tokens):
                    ids.setdefault(name, []).extend(event.ids)
        assert self.core.sequencer.blocks.pool.free == 48
        return ids


def asked(bench, *, background):
    words = ("The grid", "The grid is idle at night, and", "Once", "A question: what is it about?", "The grid")
    return [
        Request(id=f"r{number}", prompt=bench.codec.encode(text), sampling=GREEDY, background=background)
        for number, text in enumerate(words)
    ]


def answers(pressing, *, background=True):
    bench = Bench(pressing)
    for request in asked(bench, background=background):
        bench.add(request)
    return bench.drain(), bench.withdrawn


def test_no_token_changes_however_often_steps_are_given_up():
    draw = random.Random(3)
    undisturbed, never = answers(lambda: False)
    assert never == 0
    ids, withdrawn = answers(lambda: draw.random() < 0.1)
    assert withdrawn > 20
    assert ids == undisturbed


def test_nobody_asks_while_somebody_who_is_not_in_the_background_is_in_the_step():
    ids, withdrawn = answers(lambda: pytest.fail("it was asked"), background=False)
    assert len(ids) == 5
    assert withdrawn == 0


@pytest.mark.parametrize("newcomer", ["online", "background"])
async def test_who_comes_waits_for_one_layer_and_not_for_the_step(newcomer):
    """The step under way lasts until somebody presses. The control is one more in the background, who doesn't."""
    engine = TorchEngine(MODEL, TorchOptions(dtype="float32", num_blocks=256, max_sequences=8))
    await engine.start()
    core, pressed, busy, over = engine._loaded.core, [], threading.Event(), threading.Event()
    compute = core._chain.compute

    def long_step(plan, rows, unless=None):
        if not busy.is_set():
            busy.set()
            ends = time.monotonic() + CALM
            while not (unless() or over.is_set()) and time.monotonic() < ends:
                over.wait(0.005)
            pressed.append(unless())
        return compute(plan, rows, unless)

    core._chain.compute = long_step
    try:
        batch = await engine.submit(Request(id="batch", prompt=(5, 6, 7), sampling=GREEDY, background=True))
        assert await asyncio.to_thread(busy.wait, CALM)
        request = Request(id="new", prompt=(8, 9), sampling=GREEDY, background=newcomer == "background")
        new = await engine.submit(request)
        if newcomer == "background":
            over.set()
        async with asyncio.timeout(CALM):
            ends = [[event async for event in stream][-1] for stream in (new, batch)]
        assert all(isinstance(end, Finished) and end.completion_tokens == 24 for end in ends)
        assert pressed == [newcomer == "online"]
    finally:
        over.set()
        await engine.close()

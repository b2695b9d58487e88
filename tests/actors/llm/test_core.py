"""What the engine's core puts into the steps that it has under way, by a chain that answers when it is told to."""

from collections import deque
from concurrent.futures import Future

import pytest
from tokenizers import Tokenizer, models

from idlegrid.actors.llm.answer import Answer
from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.request import Finished, Request, Sampling
from idlegrid.actors.llm.sampling import Sampled
from idlegrid.actors.llm.sequencer import Sequencer, SequencerConfig


class Held:
    """A chain of `depth` steps; what decodes is shared in `parts`, and prompts (more tokens) in as many as it has."""

    def __init__(self, depth, parts):
        self.depth, self._parts = depth, parts
        self.sent = deque()

    def parts(self, tokens):
        return self._parts if tokens <= 8 else self.depth

    def submit(self, plan, rows, unless=None):
        answer = Future()
        self.sent.append(([len(span.tokens) for span in plan.spans], len(rows), answer))
        return answer

    def mend(self, why):
        raise AssertionError(why)


class Driven:
    """A core over it."""

    def __init__(self, depth=3, parts=1, blocks=64, **config):
        sizes = {"num_blocks": blocks, "block_size": 4, "max_batched_tokens": 64, "chunk": 16}
        self.core = EngineCore(Sequencer(SequencerConfig(**sizes, **config, prefix_cache=False)), Held(depth, parts))
        self.asked = self.ended = 0
        self.tokenizer = Tokenizer(models.WordLevel({}, unk_token=""))

    @property
    def under_way(self):
        """Spans of the steps that are."""
        return [spans for spans, _, _ in self.core._chain.sent]

    def ask(self, count, prompt=5, answer=9, **request):
        for _ in range(count):
            self.asked += 1
            sampling = Sampling(max_tokens=answer, temperature=0)
            asking = Request(id=f"r{self.asked}", prompt=(3,) * prompt, sampling=sampling, **request)
            self.core.add(Answer(asking, self.tokenizer, eos_ids=frozenset(), context=512), 0.0)
        self._go()

    def land(self, steps=1):
        """The oldest are answered."""
        for _ in range(steps):
            _, rows, answer = self.core._chain.sent.popleft()
            answer.set_result(Sampled((1,) * rows, (None,) * rows, ()))
            self._go()

    def _go(self):
        while self.core.has_work:
            self.ended += sum(1 for _, event in self.core.step(0.0) if isinstance(event, Finished))

    def finish(self):
        for _ in range(1000):
            if not self.core._chain.sent:
                break
            self.land()
        assert (self.ended, self.core.lives) == (self.asked, False)
        self.core.sequencer.check()


def test_what_decodes_is_one_step_where_more_would_not_pay():
    grid = Driven(depth=3, parts=1)
    grid.ask(8)  # 40 tokens of prompts: in all stages at once
    assert [len(spans) for spans in grid.under_way] == [3, 3, 2]
    grid.land(4)  # the first three decode already when the others' prompts land, and wait for them then
    assert grid.under_way == [[1] * 8]
    grid.land()
    assert grid.under_way == [[1] * 8]
    grid.finish()


@pytest.mark.parametrize(("parts", "sizes"), [(2, [4, 4]), (3, [3, 3, 2]), (8, [1] * 8)])
def test_what_decodes_is_shared_in_as_many_steps_as_pay(parts, sizes):
    grid = Driven(depth=max(3, parts), parts=parts)
    grid.ask(8, answer=30)
    grid.land(24)
    assert sorted(map(len, grid.under_way), reverse=True) == sizes
    grid.finish()


def test_a_prompt_sets_out_at_once_beside_what_decodes():
    grid = Driven(depth=3, parts=1)
    grid.ask(6)
    grid.land(4)
    assert grid.under_way == [[1] * 6]
    grid.ask(1, prompt=30)
    assert grid.under_way == [[1] * 6, [16], [14]]
    grid.land()
    assert grid.under_way == [[16], [14], [1] * 6]  # they don't wait for it
    grid.finish()


def test_who_finds_no_room_does_not_tear_steps_apart():
    """Eight sequences run, and others wait for their places: the steps stay whole."""
    grid = Driven(depth=3, parts=1, max_sequences=8)
    grid.ask(12, answer=20)
    grid.land(4)
    for _ in range(6):
        grid.land()
    assert grid.under_way == [[1] * 8]
    grid.ask(1, priority=9)  # somebody who is before them all
    grid.land(2)
    assert grid.under_way == [[1] * 8]
    grid.finish()


def test_who_waits_comes_in_when_a_place_is_free():
    grid = Driven(depth=3, parts=1, max_sequences=2)
    grid.ask(1, answer=2)
    grid.ask(1, answer=30)
    grid.ask(1, answer=4)
    grid.land(6)
    assert grid.ended >= 1
    assert len(grid.core.sequencer.running) == 2
    grid.finish()


def test_work_in_the_background_makes_way_when_its_step_has_landed():
    grid = Driven(depth=2, parts=1, max_sequences=4)
    grid.ask(4, answer=40, background=True)
    grid.land(4)
    grid.ask(1, answer=3)
    grid.land(4)
    assert any(not sequence.background for sequence in grid.core.sequencer.running) or grid.ended
    grid.finish()

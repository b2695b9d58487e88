"""Several steps under way: the tokens are those of one at a time, whatever else happens."""

import asyncio
import random

import pytest
from cut_scenario import cuts, requests, sequencer, truth
from engine_scenario import asked, run
from hosts import Fleet

from idlegrid.actors.llm.core import EngineCore
from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.shards.pipelining import MOST
from idlegrid.actors.shards.step_wire import Spent

pytestmark = pytest.mark.slow
THREE = list(cuts())[-1]


class Watched:
    """A chain that counts what is under way."""

    def __init__(self, head):
        self.head, self.under_way, self.most, self.spans = head, 0, 0, []

    @property
    def depth(self):
        return self.head.depth

    def parts(self, tokens):
        return self.head.parts(tokens)

    def submit(self, plan, rows, unless=None):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.spans.append([len(span.tokens) for span in plan.spans])
        answer = self.head.submit(plan, rows, unless)
        answer.add_done_callback(self.landed)
        return answer

    def landed(self, answer):
        self.under_way -= 1

    def mend(self, why):
        raise AssertionError(why)


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_requests_share_the_steps_under_way_and_get_the_same_tokens(depth, model, tokenizer, right):
    with Fleet(model, THREE, depth=depth) as fleet:
        chain = Watched(fleet.connect().head)
        assert run(EngineCore(sequencer(), chain), tokenizer, asked()) == (right, {})
        assert 1 < chain.most <= depth


def test_short_of_pages_with_a_cache_and_several_steps(model, tokenizer):
    """Preempted and computed again, by the cache and without, with others under way."""
    draw = random.Random(5)
    mine = [
        Request(id=each.id, prompt=each.prompt, sampling=Sampling(max_tokens=each.sampling.max_tokens, temperature=0))
        for each in requests(draw, 16)
    ]
    with Fleet(model, THREE, depth=4) as fleet:
        plans = sequencer(num_blocks=26)
        texts, bad = run(EngineCore(plans, Watched(fleet.connect().head)), tokenizer, mine)
        assert (texts, bad) == (truth(model, mine), {})
        assert plans.stats().preemptions
        assert plans.stats().prefix_hit_tokens


def test_chunks_of_one_prompt_follow_each_other_through_the_stages(model, tokenizer):
    prompt = tuple(number % 120 for number in range(100))
    with Fleet(model, THREE, depth=3) as fleet:
        chain = Watched(fleet.connect().head)
        asking = Request(id="r", prompt=prompt, sampling=Sampling(max_tokens=4, temperature=0))
        texts, _ = run(EngineCore(sequencer(), chain), tokenizer, [asking])
        assert texts["r"] == model.greedy(prompt, 4)
        assert chain.most == 3
        assert chain.spans[:8] == [[13]] * 7 + [[9]]


def test_as_many_as_the_round_trip_asks_for(model):
    """Time that a step waited for others is no reason for more."""
    with Fleet(model, THREE) as fleet:
        head = fleet.head

        def taking(trip, spent):
            async def measure():
                for _ in range(40):
                    head._sent[0] = asyncio.get_running_loop().time() - trip, 1
                    head._measure(0, spent)

            head._thread.run(measure()).result()
            return head.depth

        assert head.depth == 1
        assert taking(10.0, Spent(1.0, 0.0)) == 10
        assert taking(10.0, Spent(1.0, 7.0)) == 3
        assert taking(10.0, Spent(10.0, 0.0)) == 1
        assert taking(10.0, Spent(0.001, 0.0)) == MOST

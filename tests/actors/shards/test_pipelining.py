"""How many steps are under way, and how work is shared among them: by what steps took."""

import sys
import threading

import pytest

from idlegrid.actors.shards.pipelining import KEPT, MOST, STALE, Pipelining

NOW = 1000.0


class Chain:
    """Stages whose steps take `fixed` seconds and `each` for every token, `delay` seconds of wires a round trip."""

    def __init__(self, stages=3, fixed=0.004, each=0.0, delay=0.0):
        self.stages, self.fixed, self.each, self.delay = stages, fixed, each, delay

    def step(self, tokens):
        busiest = self.fixed + self.each * tokens
        return self.delay + self.stages * busiest, busiest

    def tell(self, known, tokens, times=KEPT, now=NOW):
        for _ in range(times):
            known.took(tokens, *self.step(tokens), now)

    def settle(self, tokens, rounds=40):
        """Work of so many tokens again and again, in as many steps as asked for."""
        known = Pipelining()
        for turn in range(rounds):
            self.tell(known, -(-tokens // known.parts(tokens, NOW)), 4, NOW + turn / 100)
        return known, known.parts(tokens, NOW + 1)

    def rate(self, tokens, parts):
        trip, busiest = self.step(-(-tokens // parts))
        return tokens / max(trip, parts * busiest)


def test_nothing_is_known_at_first():
    assert (Pipelining().depth, Pipelining().parts(8, NOW)) == (1, 1)


def test_the_round_trip_in_times_of_the_busiest_stage():
    known = Pipelining()
    Chain(stages=3).tell(known, 8)
    assert known.depth == 3
    Chain(stages=3, delay=1.0).tell(known, 8, 40)
    assert known.depth == MOST
    known.took(8, 5.0, 0.0, NOW)  # a stage that told nothing
    assert known.depth == MOST


def test_weights_are_not_read_three_times_where_that_gives_nothing():
    """Eight sequences take as long as three."""
    known, parts = Chain(each=0.00005).settle(8)
    assert (known.depth, parts) == (3, 1)


def test_a_prompt_is_shared_among_all_stages():
    """Twice as many tokens take twice as long."""
    _, parts = Chain(fixed=0.0001, each=0.001).settle(512)
    assert parts == 3


def test_the_same_chain_shares_prompts_and_not_what_decodes():
    chain, known = Chain(each=0.00005), Pipelining()
    for size in (3, 8, 170, 512):
        chain.tell(known, size)
    assert (known.parts(8, NOW), known.parts(512, NOW)) == (1, 3)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("each", [0.0, 0.0005, 0.004, 0.03])
@pytest.mark.parametrize("tokens", [1, 4, 24, 64])
def test_what_it_settles_on_is_not_much_worse_than_the_best(tokens, each, delay):
    chain = Chain(stages=4, each=each, delay=delay)
    known, parts = chain.settle(tokens)
    assert 1 <= parts <= max(1, known.depth)
    best = max(chain.rate(tokens, each) for each in range(1, min(tokens, known.depth) + 1))
    assert chain.rate(tokens, parts) >= 0.75 * best  # steps of one size are one: powers of two


def test_what_is_stale_is_tried_again():
    known = Pipelining()
    Chain().tell(known, 3)
    Chain().tell(known, 8)
    assert known.parts(8, NOW) == 1
    Chain().tell(known, 8, now=NOW + STALE + 1)
    assert known.parts(8, NOW + STALE + 1) == 3


def test_it_is_told_by_one_thread_and_asked_by_another():
    """Of more and more sizes, that are stale each time."""
    known, over = Pipelining(), threading.Event()

    def tell():
        for turn in range(4000):
            known.took(1 << turn % 24, 0.1, 0.01, NOW + turn * STALE)
        over.set()

    turn = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    teller = threading.Thread(target=tell)
    try:
        teller.start()
        while not over.is_set():
            assert 1 <= known.parts(8, NOW) <= MOST
    finally:
        teller.join()
        sys.setswitchinterval(turn)

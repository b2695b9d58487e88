"""The least loaded replica, and among those that are nearly so the one that has the prefix."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.llm.request import Request
from idlegrid.pipelines.llm.routing import ABOUT, PREFIX, SLACK, Candidate, choose, prefix_key

candidates = st.lists(
    st.builds(Candidate, epoch=st.integers(1, 50), load=st.integers(0, 40), leaving=st.booleans()),
    unique_by=lambda one: one.epoch,
    max_size=8,
)
keys = st.binary(min_size=8, max_size=8)


def idle(*epochs):
    return [Candidate(epoch=epoch, load=0) for epoch in epochs]


def test_nobody_there():
    assert choose([], b"key") is None


@given(candidates, keys, st.sets(st.integers(1, 50)))
def test_nobody_gets_much_more_than_the_least_loaded(those, key, avoid):
    chosen = choose(those, key, avoid=avoid)
    assert (chosen is None) == (not those)
    if chosen is None:
        return
    good = [one for one in those if not one.leaving and one.epoch not in avoid]
    unlost = [one for one in those if one.epoch not in avoid]
    among = good or unlost or those
    assert chosen in among
    assert chosen.load <= min(one.load for one in among) + SLACK


@given(candidates, keys, st.lists(st.none() | st.floats(1e-4, 1.0), min_size=8, max_size=8))
def test_of_those_that_are_free_about_the_soonest(those, key, seconds):
    timed = [replace(one, leaving=False, token_seconds=its) for one, its in zip(those, seconds, strict=False)]
    chosen = choose(timed, key)
    if chosen is None or chosen.token_seconds is None:
        return
    least = min(one.load for one in timed)
    free = [one.token_seconds for one in timed if one.load <= least + SLACK and one.token_seconds is not None]
    assert chosen.token_seconds <= ABOUT * min(free)


def test_a_slow_replica_serves_when_the_quick_one_is_busy():
    quick, slow = Candidate(epoch=1, load=0, token_seconds=0.01), Candidate(epoch=2, load=0, token_seconds=0.1)
    assert {choose([quick, slow], bytes([n] * 8)).epoch for n in range(20)} == {1}
    assert choose([replace(quick, load=SLACK + 1), slow], b"k").epoch == 2


def test_the_same_prefix_meets_on_one_replica_and_different_ones_spread():
    replicas = idle(1, 2, 3, 4)
    prompts = [tuple(range(n, n + 200)) for n in range(400)]
    chosen = [choose(replicas, prefix_key(Request(id="", prompt=one))).epoch for one in prompts]
    again = [choose(replicas, prefix_key(Request(id="x", prompt=(*one[:PREFIX], 7)))).epoch for one in prompts]
    assert chosen == again
    assert all(60 < count < 140 for count in Counter(chosen).values())


def test_another_tenant_is_another_prefix():
    prompt = tuple(range(100))
    assert prefix_key(Request(id="", prompt=prompt, salt="a")) != prefix_key(Request(id="", prompt=prompt, salt="b"))


def test_a_replica_that_is_lost_moves_only_its_own_prefixes():
    keys_ = [prefix_key(Request(id="", prompt=(n,))) for n in range(300)]
    before = {key: choose(idle(1, 2, 3), key).epoch for key in keys_}
    after = {key: choose(idle(1, 3), key).epoch for key in keys_}
    assert all(after[key] == epoch for key, epoch in before.items() if epoch != 2)


def test_a_loaded_favourite_is_passed_over():
    key = prefix_key(Request(id="", prompt=(1, 2, 3)))
    favourite = choose(idle(1, 2), key).epoch
    other = 3 - favourite
    at_bound = [Candidate(epoch=favourite, load=SLACK), Candidate(epoch=other, load=0)]
    over = [Candidate(epoch=favourite, load=SLACK + 1), Candidate(epoch=other, load=0)]
    assert choose(at_bound, key).epoch == favourite
    assert choose(over, key).epoch == other

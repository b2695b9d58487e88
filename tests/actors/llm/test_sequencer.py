"""The rules, one by one. That every page is right whatever happens: test_sequencer_random.py."""

import random

import pytest
from fake_stage import FakeStage, answer

from idlegrid.actors.llm.plan import Copy
from idlegrid.actors.llm.request import FinishReason, Request, Sampling
from idlegrid.actors.llm.sequence import Phase
from idlegrid.actors.llm.sequencer import Accepted, RequestRefused, Sequencer, SequencerConfig


class Bench:
    """A sequencer, a strict stage, and the outcomes so far."""

    def __init__(self, **config):
        self.sequencer = Sequencer(SequencerConfig(**{"num_blocks": 64, "block_size": 4, "max_sequences": 8, **config}))
        self.stage = FakeStage(self.sequencer.config.num_blocks, self.sequencer.config.block_size)
        self.outcomes = {}
        self.now = 0.0

    def add(self, name, prompt, tokens=4, **request):
        """`prompt`: token ids, or a length."""
        ids = tuple(range(100, 100 + prompt)) if isinstance(prompt, int) else tuple(prompt)
        value = Request(id=name, prompt=ids, sampling=Sampling(max_tokens=tokens), **request)
        self.sequencer.add(value, self.now)
        return value

    def step(self):
        step = self.sequencer.schedule(self.now)
        self.land(step, self.stage.run(step) if step else [])
        return step

    def land(self, step, answers):
        for outcome in (*step.finished, *self.sequencer.update(step, answers)):
            assert outcome.id not in self.outcomes
            self.outcomes[outcome.id] = outcome
        self.sequencer.check()

    def drain(self):
        steps = []
        while self.sequencer.has_work:
            steps.append(self.step())
            assert len(steps) < 10_000
        assert self.sequencer.blocks.pool.free == self.sequencer.config.num_blocks
        return steps

    def sequence(self, name):
        return next(s for s in (*self.sequencer.running, *self.sequencer.waiting) if s.id == name)


def sizes(step):
    """Tokens of each sequence in the step."""
    return {s.id: len(span.tokens) for s, span in zip(step.sequences, step.plan.spans, strict=True)}


# ---- the life of a request


def test_a_prompt_is_computed_in_chunks_and_then_one_token_a_step():
    bench = Bench(max_batched_tokens=4, max_sequences=1)
    request = bench.add("a", 10, tokens=3)
    steps = bench.drain()
    assert [sizes(step) for step in steps] == [{"a": 4}, {"a": 4}, {"a": 2}, {"a": 1}, {"a": 1}]
    assert [step.plan.logits for step in steps] == [0, 0, 1, 1, 1]
    outcome = bench.outcomes["a"]
    assert (outcome.reason, outcome.prompt_tokens, outcome.completion_tokens) == (FinishReason.LENGTH, 10, 3)
    assert [row.position for step in steps for row in step.rows] == [10, 11, 12]
    assert answer(request, 3) == tuple(step.plan.spans[0].tokens[-1] for step in steps[3:]) + answer(request, 3)[2:]


def test_the_phase_is_explicit():
    bench = Bench(max_batched_tokens=4, max_sequences=1)
    bench.add("a", 6)
    sequence = bench.sequence("a")
    phases = [sequence.phase]
    while bench.sequencer.has_work:
        bench.step()
        phases.append(sequence.phase)
    assert phases == [Phase.WAITING, Phase.PREFILL, *[Phase.DECODE] * 3, Phase.FINISHED]


def test_prefill_and_decode_share_a_step():
    bench = Bench(max_batched_tokens=16)
    bench.add("a", 5, tokens=9)
    bench.step()
    bench.add("b", 40)
    assert sizes(bench.step()) == {"a": 1, "b": 15}


def test_the_engine_ends_a_sequence():
    bench = Bench()
    bench.add("a", 5, tokens=9)
    bench.step()
    step = bench.sequencer.schedule(0)
    bench.land(step, [Accepted((7,), FinishReason.STOP)])
    assert (bench.outcomes["a"].reason, bench.outcomes["a"].completion_tokens) == (FinishReason.STOP, 2)
    assert not bench.sequencer.has_work
    assert bench.sequencer.blocks.pool.free == 64


@pytest.mark.parametrize(("config", "prompt"), [({"max_context": 12}, 9), ({"num_blocks": 3}, 9), ({}, 253)])
def test_a_sequence_that_reaches_the_context_ends_with_length(config, prompt):
    bench = Bench(**config)
    bench.add("a", prompt, tokens=500)
    bench.drain()
    assert bench.outcomes["a"].reason is FinishReason.LENGTH
    assert bench.outcomes["a"].completion_tokens == 3


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        (12, 1, "the prompt has 12 tokens; at most 11, and one to generate, fit into the context of 12 tokens"),
        (0, 1, "empty prompt"),
        (3, 0, "max_tokens must be at least 1, not 0"),
        ((1, -1), 1, "not -1"),
        ((1, 2**32), 1, "not 4294967296"),
    ],
)
def test_what_can_never_be_served_is_refused_and_leaves_nothing(prompt, tokens, message):
    bench = Bench(num_blocks=3)
    with pytest.raises(RequestRefused, match=message):
        bench.add("a", prompt, tokens)
    assert not bench.sequencer.has_work
    bench.add("a", 3)  # the id is free


def test_two_alive_requests_cannot_have_one_id():
    bench = Bench()
    bench.add("a", 3)
    with pytest.raises(RequestRefused, match="'a' is alive already"):
        bench.add("a", 3)
    bench.drain()
    bench.outcomes.clear()
    bench.add("a", 3)
    bench.drain()


def test_known_tokens_are_computed_with_the_prompt_and_counted():
    bench, whole = Bench(), Bench()
    request = whole.add("a", 6, tokens=8)
    whole.drain()
    bench.add("a", 6, tokens=8, known=answer(request, 5))
    steps = bench.drain()
    assert [sizes(step) for step in steps] == [{"a": 11}, {"a": 1}, {"a": 1}]
    assert bench.outcomes["a"].completion_tokens == 8
    assert [row.position for step in steps for row in step.rows] == [11, 12, 13]


@pytest.mark.parametrize("known", [8, 9])
def test_a_retried_request_that_had_everything_ends_without_a_step(known):
    bench = Bench()
    bench.add("a", 6, tokens=8, known=tuple(range(known)))
    step = bench.sequencer.schedule(0.0)
    assert not step
    assert [(o.id, o.reason, o.completion_tokens) for o in step.finished] == [("a", FinishReason.LENGTH, known)]
    assert bench.sequencer.abort("a") is None
    assert not bench.sequencer.has_work


# ---- abort and deadlines


def test_abort_ends_a_request_in_any_phase_and_frees_its_blocks():
    for steps in range(5):
        bench = Bench(max_batched_tokens=4, max_sequences=2)
        bench.add("a", 10)
        bench.add("b", 10)
        for _ in range(steps):
            bench.step()
        for name in ("a", "b"):
            assert bench.sequencer.abort(name).reason is FinishReason.ABORTED
            assert bench.sequencer.abort(name) is None
            bench.sequencer.check()
        assert not bench.sequencer.has_work
        assert bench.sequencer.blocks.pool.free == 64


def test_abort_in_flight_keeps_the_blocks_until_the_step_lands_and_ignores_its_tokens():
    bench = Bench()
    bench.add("a", 6)
    step = bench.sequencer.schedule(0)
    assert bench.sequencer.abort("a").completion_tokens == 0
    assert bench.sequencer.blocks.pool.free == 62
    assert bench.sequencer.has_work
    bench.sequencer.check()
    bench.land(step, [Accepted((7,), FinishReason.STOP)])
    assert bench.outcomes == {}
    assert bench.sequencer.blocks.pool.free == 64


def test_an_id_used_again_while_the_aborted_one_is_in_flight():
    bench = Bench()
    bench.add("a", 6)
    step = bench.sequencer.schedule(0)
    bench.sequencer.abort("a")
    bench.add("a", 9, tokens=2)
    bench.land(step, bench.stage.run(step))
    bench.drain()
    assert bench.outcomes["a"].prompt_tokens == 9


def test_deadlines_end_whoever_waits_or_runs():
    bench = Bench(max_sequences=1)
    bench.add("runs", 6, tokens=50, timeout=5)
    bench.add("waits", 6, tokens=50, timeout=6)
    bench.add("ended", 6, tokens=50, timeout=7)
    bench.sequencer.abort("ended")
    bench.add("ended", 6, tokens=2)  # same id, no deadline
    for bench.now in (0.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0):
        bench.step()
    assert {name: outcome.reason for name, outcome in bench.outcomes.items()} == {
        "runs": FinishReason.TIMEOUT,
        "waits": FinishReason.TIMEOUT,
        "ended": FinishReason.LENGTH,
    }
    assert not bench.sequencer.has_work


# ---- prefix cache


@pytest.mark.parametrize("length", [4, 8, 64])
@pytest.mark.parametrize("more", [0, 1])
def test_exactly_the_tokens_outside_the_cached_blocks_are_computed(length, more):
    """T2 and T5: of n * block_size tokens the last block is computed again, since one token must give logits."""
    bench = Bench()
    bench.add("a", length + more, tokens=1)
    bench.drain()
    bench.add("b", length + more, tokens=1)
    bench.drain()
    hits = length if more else length - 4
    assert bench.outcomes["b"].cached_tokens == hits
    assert bench.stage.computed == bench.sequencer.stats().computed_tokens == 2 * (length + more) - hits
    assert bench.sequencer.stats().prefix_hit_tokens == hits
    assert bench.sequencer.stats().prefix_queried_tokens == 2 * (length + more)


def test_shared_prefixes_are_computed_once_for_many():
    bench, draw = Bench(num_blocks=512), random.Random(0)
    system = tuple(draw.randrange(50) for _ in range(40))
    bench.add("first", system, tokens=1)
    bench.drain()
    tails = [draw.randint(1, 20) for _ in range(16)]
    for number, tail in enumerate(tails):
        bench.add(str(number), (*system, *(draw.randrange(1000, 2000) for _ in range(tail))), tokens=1)
    bench.drain()
    assert bench.stage.computed == 40 + sum(tails)
    assert all(bench.outcomes[str(number)].cached_tokens == 40 for number in range(16))


def test_generated_tokens_are_found_too():
    """The next turn of a chat begins with the last one's prompt and answer."""
    bench = Bench()
    request = bench.add("a", 6, tokens=7)
    bench.drain()
    bench.add("b", (*request.prompt, *answer(request, 7), 1, 2, 3), tokens=1)
    bench.drain()
    assert bench.outcomes["b"].cached_tokens == 12


def test_another_salt_finds_nothing():
    """T4."""
    bench = Bench()
    for name, salt in (("a", ""), ("b", "x"), ("c", "y")):
        bench.add(name, 21, tokens=1, salt=salt)
        bench.drain()
        assert bench.outcomes[name].cached_tokens == 0
    assert bench.sequencer.cached_prefix(tuple(range(100, 121)), "x") == 20
    assert bench.sequencer.cached_prefix(tuple(range(100, 121)), "z") == 0


def test_the_cache_can_be_turned_off():
    bench = Bench(prefix_cache=False)
    for name in "ab":
        bench.add(name, 21, tokens=1)
        bench.drain()
    assert bench.stage.computed == 42


def test_the_cache_gives_way_to_who_needs_blocks():
    bench = Bench(num_blocks=8)
    bench.add("a", 20, tokens=1)
    bench.drain()
    bench.add("b", range(500, 529), tokens=1)
    bench.drain()
    bench.add("a2", 20, tokens=1)
    bench.drain()
    assert bench.outcomes["a2"].cached_tokens == 0


def test_the_tail_of_a_cached_text_is_given_up_first():
    bench = Bench(num_blocks=8)
    bench.add("a", 25, tokens=1)
    bench.drain()
    bench.add("b", range(500, 511), tokens=1)
    bench.drain()
    assert bench.sequencer.cached_prefix(tuple(range(100, 125))) == 20


# ---- sharing and copying


def forked(parent_tokens=1, prompt=6, **config):
    bench = Bench(**config)
    request = bench.add("a", prompt, tokens=20)
    for _ in range(parent_tokens):
        bench.step()
    bench.sequencer.fork("a", Request(id="b", prompt=request.prompt, sampling=Sampling(max_tokens=5)), bench.now)
    bench.sequencer.check()
    return bench


def test_a_fork_computes_one_token_and_copies_one_block():
    bench = forked()
    assert bench.sequence("b").blocks == bench.sequence("a").blocks
    before = bench.sequencer.blocks.pool.free
    step = bench.step()
    assert sizes(step) == {"a": 1, "b": 1}
    assert [type(copy) for copy in step.plan.copies] == [Copy]
    assert before - bench.sequencer.blocks.pool.free == 1
    assert bench.sequence("b").blocks[0] == bench.sequence("a").blocks[0]
    bench.drain()
    assert (bench.outcomes["b"].cached_tokens, bench.outcomes["b"].completion_tokens) == (5, 5)


def test_a_fork_that_outlives_its_parent_writes_in_place_and_hides_the_block():
    """Its last prompt token lies in a block that was full for the parent, and is offered by the cache."""
    bench = forked(prompt=8)
    bench.sequencer.abort("a")
    block = bench.sequence("b").blocks[1]
    assert bench.sequencer.blocks.pool.name_of(block) is not None
    step = bench.sequencer.schedule(0.0)
    assert (step.plan.copies, step.plan.spans[0].blocks[1]) == ((), block)
    assert bench.sequencer.blocks.pool.name_of(block) is None
    bench.sequencer.check()
    bench.land(step, bench.stage.run(step))
    assert bench.sequencer.blocks.pool.name_of(block) is not None
    bench.drain()


def test_a_fork_of_another_prompt_or_salt_shares_only_what_is_equal():
    bench = Bench()
    request = bench.add("a", 11, tokens=20)
    bench.step()
    prompts = {
        "same": (request.prompt, ""),
        "half": ((*request.prompt[:6], 1, 2, 3), ""),
        "salt": (request.prompt, "s"),
    }
    for name, (prompt, salt) in prompts.items():
        bench.sequencer.fork("a", Request(id=name, prompt=prompt, sampling=Sampling(max_tokens=2), salt=salt), 0.0)
    bench.drain()
    assert {name: bench.outcomes[name].cached_tokens for name in prompts} == {"same": 10, "half": 6, "salt": 0}


def test_a_fork_without_a_place_waits_and_then_finds_the_full_blocks():
    bench = forked(max_sequences=1, prompt=6)
    assert bench.sequence("b").phase is Phase.WAITING
    bench.drain()
    assert bench.outcomes["b"].cached_tokens == 4


@pytest.mark.parametrize(("prompt", "blocks"), [((9, 9, 9), 64), (range(100, 122), 6)])
def test_a_fork_with_nothing_in_common_or_too_few_blocks_waits(prompt, blocks):
    bench = Bench(num_blocks=blocks)
    bench.add("a", 10, tokens=9)
    bench.step()
    request = Request(id="b", prompt=tuple(prompt), sampling=Sampling(max_tokens=1))
    bench.sequencer.fork("a", request, 0.0)
    assert bench.sequence("b").phase is Phase.WAITING
    bench.drain()


def test_only_the_living_can_be_forked():
    with pytest.raises(KeyError):
        Bench().sequencer.fork("a", Request(id="b", prompt=(1,)), 0.0)


# ---- guesses


def test_right_guesses_save_steps():
    bench = Bench()
    request = bench.add("a", 6, tokens=16)
    right, steps = answer(request, 16), 0
    while bench.sequencer.has_work:
        done = len(bench.sequence("a").tokens) - 6
        bench.sequencer.propose("a", right[done : done + 4])
        steps += bool(bench.step())
    assert steps == 1 + 3  # the prompt gives one token; 15 more come five at a time
    assert bench.outcomes["a"].completion_tokens == 16


def test_wrong_guesses_cost_nothing_but_their_computation():
    bench = Bench()
    bench.add("a", 6, tokens=8)
    while bench.sequencer.has_work:
        bench.sequencer.propose("a", (999, 998, 997))
        bench.step()
    assert bench.outcomes["a"].completion_tokens == 8
    assert bench.sequencer.stats().computed_tokens == 6 + 7
    assert bench.stage.computed > 13


def test_a_guess_is_cut_to_what_could_be_accepted():
    bench = Bench()
    bench.add("a", 6, tokens=4)
    bench.step()
    bench.sequencer.propose("a", (1,) * 9)
    step = bench.step()
    assert len(step.rows[0].draft) == 2
    assert step.plan.logits == 3


def test_a_guess_takes_no_block_that_somebody_may_need():
    bench = Bench(num_blocks=6, watermark=0)
    bench.add("a", 6, tokens=9)
    bench.add("b", range(200, 206), tokens=9)
    bench.step()
    for free, guessed in ((2, 1), (2, 0)):
        assert bench.sequencer.blocks.pool.free == free
        bench.sequencer.propose("a", (999,) * 5)
        step = bench.sequencer.schedule(0.0)
        assert len(step.rows[0].draft) == guessed, "a guess stays within the block at hand"
        bench.land(step, bench.stage.run(step))


def test_guesses_are_for_those_who_decode():
    bench = Bench(max_batched_tokens=4, max_sequences=1)
    bench.add("a", 6)
    for name in ("a", "nobody"):
        bench.sequencer.propose(name, (1, 2))
    bench.step()
    bench.sequencer.propose("a", (1, 2))
    assert sizes(bench.step()) == {"a": 2}


# ---- fairness


def test_a_long_prompt_never_stops_those_who_decode():
    """T7: also if it came first, and is first in rank."""
    bench = Bench(num_blocks=800, block_size=16, max_batched_tokens=64)
    for name in "abcd":
        bench.add(name, 5, tokens=400)
    bench.step()
    bench.add("long", range(10_000), tokens=2, priority=9)
    others = set("abcd")
    computed = 0
    while computed < 10_000:
        step = sizes(bench.step())
        assert others <= set(step), "somebody who decodes was left out"
        assert step["long"] == min(60, 10_000 - computed)
        computed += step["long"]


def test_a_chunk_bounds_what_a_step_computes_of_one_prompt():
    bench = Bench(max_batched_tokens=64, chunk=8)
    bench.add("a", 20)
    bench.add("b", 20)
    assert sizes(bench.step()) == {"a": 8, "b": 8}


def starving(aging, seconds=100):
    """One of low priority, and every second a new one of high priority, for one place. When does the low one start?"""
    bench = Bench(max_sequences=1, aging=aging)
    bench.add("low", 3, tokens=1, priority=0)
    for second in range(seconds):
        bench.now = float(second)
        bench.add(f"high{second}", 3, tokens=1, priority=2)
        if "low" in sizes(bench.step()):
            return second
    return None


def test_priority_goes_first_and_nobody_starves():
    assert starving(aging=10.0) == 20  # two levels are worth twenty seconds


def test_without_aging_the_low_would_starve():
    assert starving(aging=1e6) is None


def test_priorities_order_the_queue_and_equals_keep_their_order():
    bench = Bench(max_sequences=1)
    for name, priority in (("a", 0), ("b", 1), ("c", 0), ("d", 1)):
        bench.add(name, 3, tokens=1, priority=priority)
    assert [name for step in bench.drain() for name in sizes(step)] == ["b", "d", "a", "c"]


def test_nobody_overtakes_the_first_for_its_blocks():
    bench = Bench(num_blocks=16, watermark=0)
    bench.add("runs", 30, tokens=9)
    bench.step()
    bench.add("big", range(500, 540), tokens=1)
    bench.add("small", 3, tokens=1)
    order = [name for step in bench.drain() for name in sizes(step)]
    assert order.index("small") > order.index("big")


# ---- background


def test_background_gives_its_place_within_a_step():
    bench = Bench(max_sequences=2)
    for name in "ab":
        bench.add(name, range(100 * ord(name), 100 * ord(name) + 5), tokens=20, background=True)
    bench.step()
    bench.add("online", 6, tokens=3)
    step = bench.step()
    assert sizes(step) == {"online": 6}, "a step for a first token holds nobody else"
    assert step.preempted == ("b",)
    assert sizes(bench.step()) == {"online": 1, "a": 1}, "who decodes shares its steps"
    bench.drain()
    assert [bench.outcomes[name].completion_tokens for name in ("a", "b", "online")] == [20, 20, 3]


def test_background_gives_its_blocks():
    bench = Bench(num_blocks=8, watermark=0)
    bench.add("batch", range(200, 228), tokens=4, background=True)
    bench.step()
    bench.add("online", 20, tokens=2)
    assert sizes(bench.step()) == {"online": 20}
    bench.drain()
    assert bench.outcomes["batch"].completion_tokens == 4


def test_background_gives_its_blocks_though_a_step_with_it_is_always_in_flight():
    """On a chain the next chunk of a long prompt is planned before the one before it has landed."""
    bench = Bench(num_blocks=32, watermark=0, max_batched_tokens=8)
    bench.add("batch", range(200, 320), tokens=2, background=True)
    flying = [bench.sequencer.schedule(0.0) for _ in range(2)]
    bench.add("online", 20, tokens=2)
    planned = []
    for _ in range(4):  # it waits for what is in flight, not for the whole prompt
        planned.append(bench.sequencer.schedule(0.0))
        flying.append(planned[-1])
        first = flying.pop(0)
        bench.land(first, bench.stage.run(first) if first else [])
    assert any("online" in sizes(step) for step in planned)
    for step in filter(None, flying):
        bench.land(step, bench.stage.run(step))
    bench.drain()
    assert [bench.outcomes[name].completion_tokens for name in ("batch", "online")] == [2, 2]


def test_a_fork_in_the_background_shares_with_its_parent_and_gives_way():
    bench = Bench(max_sequences=3)
    parent = bench.add("parent", 10, tokens=30, background=True)
    bench.step()
    child = Request(id="child", prompt=parent.prompt, sampling=Sampling(max_tokens=30), background=True, timeout=5.0)
    bench.sequencer.fork("parent", child, bench.now)
    bench.step()
    for name in ("x", "y", "z"):
        bench.add(name, range(100 * ord(name), 100 * ord(name) + 5), tokens=3)
    assert set(sizes(bench.step())) == {"x", "y", "z"}
    bench.now = 6.0
    bench.step()
    assert bench.outcomes["child"].reason is FinishReason.TIMEOUT
    bench.drain()
    assert bench.outcomes["parent"].completion_tokens == 30


def test_while_others_come_prompts_of_the_background_are_computed_in_small_pieces():
    bench = Bench(num_blocks=256, background_in_step=3, background_tokens_in_step=6, quiet=30.0)
    bench.now = 100.0
    bench.add("online", 4, tokens=4)
    for number, name in enumerate("abcd"):
        bench.add(name, range(1000 * number, 1000 * number + 50), tokens=8, background=True)
    assert sizes(bench.step()) == {"online": 4}
    assert sizes(bench.step()) == {"online": 1, "a": 6}
    while bench.sequence("a").phase is not Phase.DECODE:
        assert sum(size for name, size in sizes(bench.step()).items() if name != "online") == 6
    assert sizes(bench.step()) == {"a": 1, "b": 5}, "who decodes goes on"
    bench.now += 30.0
    assert sizes(bench.step()) == {"a": 1, "b": 41, "c": 50, "d": 50}, "control: nobody came for a while"
    bench.drain()


def test_a_step_that_is_withdrawn_is_planned_again():
    bench = Bench()
    bench.add("a", 6, background=True)
    first = bench.sequencer.schedule(0.0)
    bench.sequencer.withdraw(first)
    bench.sequencer.check()
    assert bench.sequencer.stats().computed_tokens == 0
    bench.add("online", 3)
    assert sizes(bench.step()) == {"online": 3}
    bench.drain()
    assert {outcome.completion_tokens for outcome in bench.outcomes.values()} == {4}
    assert bench.outcomes["a"].preemptions == 0


def test_a_request_that_ends_before_its_step_is_withdrawn_leaves_no_block():
    bench = Bench()
    bench.add("a", 6, background=True)
    step = bench.sequencer.schedule(0.0)
    bench.sequencer.abort("a")
    bench.sequencer.withdraw(step)
    assert not bench.sequencer.has_work
    assert bench.sequencer.blocks.pool.free == 64


def test_only_the_last_step_can_be_withdrawn():
    bench = Bench(max_batched_tokens=8)
    bench.add("a", 20)
    first, second = bench.sequencer.schedule(0.0), bench.sequencer.schedule(0.0)
    with pytest.raises(ValueError, match="not the last one in flight"):
        bench.sequencer.withdraw(first)
    bench.sequencer.withdraw(second)
    bench.land(first, bench.stage.run(first))
    with pytest.raises(ValueError, match="not the last one in flight"):
        bench.sequencer.withdraw(first)
    bench.drain()
    assert bench.outcomes["a"].completion_tokens == 4


def test_background_comes_last_whatever_its_priority_and_age():
    bench = Bench(max_sequences=1)
    bench.add("batch", 3, tokens=1, background=True, priority=9)
    bench.now = 1e6
    bench.add("online", 3, tokens=1)
    assert [name for step in bench.drain() for name in sizes(step)] == ["online", "batch"]


def test_control_without_background_the_newcomer_waits_for_a_place():
    bench = Bench(max_sequences=2)
    for name in "ab":
        bench.add(name, 5, tokens=20)
    bench.step()
    bench.add("online", 6, tokens=3)
    assert "online" not in sizes(bench.step())


# ---- preemption


def test_the_last_in_rank_gives_its_blocks_and_loses_no_token():
    bench = Bench(num_blocks=8, watermark=0)
    requests = {
        "low": bench.add("low", range(200, 212), tokens=16),
        "high": bench.add("high", 12, tokens=16, priority=1),
    }
    preempted = [name for step in bench.drain() for name in step.preempted]
    assert set(preempted) == {"low"}
    assert bench.outcomes["low"].preemptions == bench.sequencer.stats().preemptions == len(preempted)
    assert [bench.outcomes[name].completion_tokens for name in requests] == [16, 16]


def test_the_preempted_goes_on_from_what_the_cache_still_holds():
    bench = Bench(num_blocks=8, watermark=0)
    bench.add("a", 12, tokens=16)
    bench.add("b", range(200, 212), tokens=16)
    bench.drain()
    naive = sum(len(range(12)) + 16 for _ in "ab") + 28  # if the preempted computed all it had again
    assert bench.sequencer.stats().preemptions == 1
    assert bench.stage.computed < naive


def test_what_the_preempted_finds_again_is_no_hit():
    bench = Bench(num_blocks=8, watermark=0)
    bench.add("a", 12, tokens=16)
    bench.add("b", range(200, 212), tokens=16)
    bench.drain()
    assert (bench.outcomes["b"].preemptions, bench.outcomes["b"].cached_tokens) == (1, 0)
    assert bench.sequencer.stats().prefix_hit_tokens == 0
    assert bench.sequencer.stats().prefix_queried_tokens == 24


def test_a_place_that_preemption_frees_is_taken_by_the_first_who_waits():
    bench = Bench(num_blocks=8, watermark=0, max_sequences=2, max_batched_tokens=2)
    bench.add("a", 4, tokens=28, priority=2)
    bench.add("b", range(200, 204), tokens=28)
    while bench.sequencer.blocks.pool.free:
        bench.step()
    bench.add("c", 3, tokens=1, priority=1)
    steps = bench.drain()
    step = next(step for step in steps if step.preempted)
    assert step.preempted == ("b",)
    assert sizes(step) == {"a": 1, "c": 1}


def test_blocks_that_a_running_prompt_still_needs_are_not_given_to_a_new_one():
    bench = Bench(num_blocks=10, watermark=0, chunk=4)
    bench.add("a", 28, tokens=1)
    bench.add("b", range(200, 216), tokens=1)
    assert sizes(bench.step()) == {"a": 4}
    assert "b" not in sizes(bench.step())
    bench.drain()
    assert bench.sequencer.stats().preemptions == 0


def test_the_watermark_is_left_free_by_admission():
    bench = Bench(num_blocks=10, watermark=0.3)
    bench.add("a", 15, tokens=2)
    bench.add("b", range(200, 215), tokens=2)
    assert sizes(bench.step()) == {"a": 15}
    bench.drain()


def test_a_prompt_larger_than_the_watermark_allows_runs_when_nobody_else_does():
    bench = Bench(num_blocks=10, watermark=0.5)
    bench.add("a", 39, tokens=1)
    bench.drain()
    assert bench.outcomes["a"].completion_tokens == 1


# ---- steps in flight, and lost ones


def test_steps_in_flight_hold_different_sequences():
    bench = Bench(max_batched_tokens=8)
    bench.add("a", 8)
    bench.add("b", 8)
    first, second, third = (bench.sequencer.schedule(0.0) for _ in range(3))
    assert (sizes(first), sizes(second), sizes(third)) == ({"a": 8}, {"b": 8}, {})
    bench.sequencer.check()
    for step in (first, second):
        bench.land(step, bench.stage.run(step))
    bench.drain()


def test_who_is_in_flight_is_not_preempted():
    bench = Bench(num_blocks=4, watermark=0)
    bench.add("a", 8, tokens=6)
    first = bench.sequencer.schedule(0.0)
    bench.add("b", range(200, 208), tokens=6)
    second = bench.sequencer.schedule(0.0)
    bench.land(first, bench.stage.run(first))
    short = bench.sequencer.schedule(0.0)  # "a" needs a third block; "b", behind it, is in flight with the last two
    assert (sizes(short), short.preempted) == ({}, ())
    bench.land(second, bench.stage.run(second))
    assert bench.step().preempted == ("b",)
    bench.drain()


def test_a_failed_step_is_computed_again_and_no_token_is_lost():
    bench = Bench()
    bench.add("a", 10, tokens=6)
    bench.add("b", range(300, 310), tokens=6)
    bench.step()
    bench.step()
    lost = bench.sequencer.schedule(0.0)
    bench.sequencer.abort("b")
    bench.sequencer.fail(lost)
    bench.sequencer.check()
    with pytest.raises(ValueError, match="is not in flight"):
        bench.sequencer.fail(lost)
    bench.drain()
    assert bench.outcomes["a"].completion_tokens == 6


def test_a_reset_believes_no_page():
    bench = Bench()
    bench.add("a", 10, tokens=6)
    bench.step()
    lost = bench.sequencer.schedule(0.0)
    bench.sequencer.reset()
    bench.stage.pages = [[None] * 4 for _ in range(64)]
    with pytest.raises(ValueError, match="is not in flight"):
        bench.sequencer.update(lost, [Accepted((1,))])
    bench.drain()
    assert bench.outcomes["a"].completion_tokens == 6


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "has 1 rows, but 0 answers"),
        ([Accepted((1, 2))], "2 tokens for 1 rows"),
        ([Accepted(())], "0 tokens for 1 rows"),
    ],
)
def test_answers_that_do_not_fit_are_refused_and_change_nothing(answers, message):
    bench = Bench()
    bench.add("a", 5)
    step = bench.sequencer.schedule(0.0)
    with pytest.raises(ValueError, match=message):
        bench.sequencer.update(step, answers)
    bench.land(step, bench.stage.run(step))
    with pytest.raises(ValueError, match="is not in flight"):
        bench.sequencer.update(step, [Accepted((1,))])


# ---- facts


def test_stats_tell_what_it_does():
    bench = Bench(num_blocks=10, max_sequences=1)
    bench.add("a", 6)
    bench.add("b", 6)
    bench.step()
    stats = bench.sequencer.stats()
    assert (stats.waiting, stats.running, stats.steps, stats.computed_tokens) == (1, 1, 1, 6)
    assert (stats.kv_usage, stats.kv_waste) == (0.2, 0.25)


def test_a_shared_tail_is_wasted_once():
    bench = forked(prompt=6, num_blocks=10)
    assert bench.sequencer.stats().kv_waste == 0.25


@pytest.mark.parametrize("length", [1, 5, 16, 100])
def test_waste_is_less_than_a_block_a_sequence(length):
    bench = Bench(block_size=16, max_batched_tokens=128)
    bench.add("a", length, tokens=40)
    while bench.sequencer.has_work:
        bench.step()
        stats = bench.sequencer.stats()
        assert stats.kv_waste * stats.kv_usage * 64 * 16 < 16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_blocks": 0}, "num_blocks must be at least 1"),
        ({"num_blocks": 4, "max_sequences": 9, "max_batched_tokens": 8}, "can't all decode"),
        ({"num_blocks": 4, "watermark": 1.0}, "watermark"),
        ({"num_blocks": 4, "aging": float("inf")}, "aging"),
    ],
)
def test_sizes_that_cannot_work_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        SequencerConfig(**config)

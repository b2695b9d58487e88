"""Each invariant is seen to be broken when somebody breaks it."""

import pytest

from idlegrid.actors.llm.invariants import InvariantBroken
from idlegrid.actors.llm.request import Request, Sampling
from idlegrid.actors.llm.sequence import Phase
from idlegrid.actors.llm.sequencer import Accepted, Sequencer, SequencerConfig


@pytest.fixture
def busy():
    """Two sequences that decode, one of them in flight, one that waits, and something in the cache."""
    sequencer = Sequencer(SequencerConfig(num_blocks=16, block_size=4, max_sequences=2))
    for number in range(3):
        prompt = tuple(range(number, number + 6))
        sequencer.add(Request(id=str(number), prompt=prompt, sampling=Sampling(max_tokens=9)), now=0.0)
    step = sequencer.schedule(0.0)
    sequencer.update(step, [Accepted((1,))] * 2)
    sequencer.schedule(0.0)
    sequencer.check()
    return sequencer


def hold_more(s):
    s.running[0].blocks.append(s.running[1].blocks[0])


def count_wrong(s):
    s.blocks.pool.free -= 1


def lose_a_block(s):
    s.blocks.pool._unlink(15)


def free_what_is_held(s):
    s.blocks.pool._link(s.running[0].blocks[0], after=16)
    s.blocks.pool.free += 1


def compute_without_blocks(s):
    s.running[0].computed = 99


def compute_everything(s):
    s.running[0].tokens.pop()


def offer_what_is_written(s):
    s.blocks.pool.register(s.running[0].blocks[1], b"name")


def lose_a_name(s):
    s.blocks.pool._hash[s.running[0].blocks[0]] = None


def be_in_two_steps(s):
    s.in_flight[99] = s.in_flight[max(s.in_flight)]


def forget_the_step(s):
    s.running[0].flights.clear()


def remember_a_step_that_is_gone(s):
    s.in_flight.clear()


def wait_with_blocks(s):
    s.waiting[0].computed = 1


def be_in_the_wrong_phase(s):
    s.running[0].phase = Phase.WAITING


def decode_too_early(s):
    s.running[0].tokens.append(1)


def show_an_old_table(s):
    s.running[0]._table = ()


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (hold_more, "I1: block . has 1 references, but 2"),
        (count_wrong, "I2: 11 blocks are said to be free"),
        (lose_a_block, r"I2: .* free \+ 4 held of 16"),
        (free_what_is_held, "I2|I3"),
        (compute_without_blocks, "I4"),
        (compute_everything, "I6"),
        (offer_what_is_written, "I5: '0' writes block ., which the cache offers"),
        (lose_a_name, "I5: block . is found as"),
        (be_in_two_steps, "I7: .* more than one step"),
        (forget_the_step, "I7: '0' doesn't know the step"),
        (remember_a_step_that_is_gone, "I7: '0' doesn't know the steps"),
        (wait_with_blocks, "'2' waits, but holds"),
        (be_in_the_wrong_phase, "'0' is waiting in the wrong line"),
        (decode_too_early, "'0' decodes with 6 of 8"),
        (show_an_old_table, "old block table"),
    ],
)
def test_a_broken_invariant_is_told(busy, breaking, message):
    breaking(busy)
    with pytest.raises(InvariantBroken, match=message):
        busy.check()

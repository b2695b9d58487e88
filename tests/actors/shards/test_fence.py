import itertools

from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.shards.fence import Fence, Judgement


def test_steps_of_the_epoch_that_holds_are_taken_once_and_in_order():
    fence = Fence(3, expected=7)
    assert fence.judge(3, 8) is Judgement.GAP
    assert fence.judge(3, 7) is fence.judge(3, 7) is Judgement.TAKE
    fence.take()
    assert fence.judge(3, 7) is Judgement.DUPLICATE
    assert fence.judge(2, 8) is Judgement.STALE
    assert fence.judge(4, 8) is Judgement.GAP  # nobody opened it
    assert fence.judge(3, 8) is Judgement.TAKE


def test_an_epoch_opens_once():
    fence = Fence(3, expected=7)
    assert not fence.open(3, 0)
    assert not fence.open(2, 0)
    assert (fence.epoch, fence.expected) == (3, 7)
    assert fence.open(5, 2)
    assert not fence.open(5, 0)
    assert (fence.epoch, fence.expected) == (5, 2)


events = st.tuples(st.sampled_from(["open", "data"]), st.integers(0, 4), st.integers(0, 6))


@given(st.lists(events, max_size=60))
def test_whatever_comes_each_epoch_is_one_run_of_steps_and_no_epoch_returns(several):
    fence, taken = Fence(0), []
    for what, epoch, step in several:
        if what == "open":
            fence.open(epoch, step)
        elif fence.judge(epoch, step) is Judgement.TAKE:
            taken.append((epoch, step))
            fence.take()
    for (epoch, step), (later, next_step) in itertools.pairwise(taken):
        assert later > epoch or (later == epoch and next_step == step + 1)

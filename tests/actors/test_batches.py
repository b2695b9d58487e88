import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.batches import by_token_budget

LENGTHS = st.lists(st.integers(0, 300), max_size=200)


@given(LENGTHS, st.integers(1, 600))
def test_every_index_comes_exactly_once(lengths, budget):
    batches = list(by_token_budget(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 600))
def test_no_batch_of_several_exceeds_the_budget(lengths, budget):
    for batch in by_token_budget(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@given(LENGTHS, st.integers(1, 600))
def test_longest_first(lengths, budget):
    order = [lengths[index] for batch in by_token_budget(lengths, budget) for index in batch]
    assert order == sorted(order, reverse=True)


def test_a_sequence_longer_than_the_budget_stands_alone():
    assert list(by_token_budget([900, 3, 900], 512)) == [[0], [2], [1]]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        list(by_token_budget([1], 0))

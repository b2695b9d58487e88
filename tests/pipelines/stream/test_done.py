"""Ranges of records: what is in, what is missing, for any order of adding."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.pipelines.stream.done import Done, Piece

pieces = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 10)).map(
        lambda one: Piece(one[0], one[1], one[1] + one[2])
    ),
    max_size=12,
)


@given(pieces, st.integers(0, 40), st.integers(0, 15))
def test_it_is_a_set_of_records(added, start, length):
    done, members = Done(), set()
    for piece in added:
        done.add(piece)
        members |= {(piece.partition, number) for number in range(piece.start, piece.stop)}
    assert done.records == len(members)
    for partition in "ab":
        missing = [
            n for piece in done.missing(partition, start, start + length) for n in range(piece.start, piece.stop)
        ]
        assert missing == [n for n in range(start, start + length) if (partition, n) not in members]
    for ranges in done.ranges().values():
        assert all(left[1] < right[0] for left, right in pairwise(ranges))
    assert Done(done.ranges()) == done


@given(pieces)
def test_the_order_of_adding_does_not_matter(added):
    forwards, backwards = Done(), Done()
    for piece in added:
        forwards.add(piece)
    for piece in reversed(added):
        backwards.add(piece)
    assert forwards == backwards


def test_what_is_forgotten_is_not_in_it():
    done = Done({"a": [(0, 3)], "b": [(1, 2)]})
    done.forget("a")
    done.forget("never seen")
    assert done.partitions() == {"b"}


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 2), (-1, 2)])
def test_a_piece_that_is_none_is_refused(start, stop):
    with pytest.raises(ValueError, match="no range"):
        Done().add(Piece("a", start, stop))

"""Whatever replicas say and when: the reader gets every token once, in order, and one end."""

import pytest
from chain_engine import answer_to
from hypothesis import given
from hypothesis import strategies as st

from idlegrid.actors.llm.request import Finished, FinishReason, Request, Sampling, Tokens
from idlegrid.actors.serving.errors import StreamLost
from idlegrid.pipelines.llm.journal import Journal

REQUEST = Request(id="r", prompt=(1, 2), sampling=Sampling(max_tokens=30), timeout=9.0)
END = Finished(reason=FinishReason.LENGTH)


def told(*ids):
    return Tokens(ids=ids, text="")


def test_an_attempt_asks_for_what_is_not_known():
    journal = Journal(REQUEST, "s")
    first = journal.begin(9.0)
    journal.take(1, 0, told(5, 6))
    second = journal.begin(4.0)
    assert (first.id, first.known, first.timeout) == ("r.s.1", (), 9.0)
    assert (second.id, second.known, second.timeout) == ("r.s.2", (5, 6), 4.0)
    assert second.prompt == REQUEST.prompt


def test_what_a_replica_says_after_it_was_given_up_counts_for_nothing():
    journal = Journal(REQUEST)
    journal.begin(None)
    journal.take(1, 0, told(5))
    journal.begin(None)
    assert journal.take(1, 1, told(6)) is None
    assert journal.take(1, 1, END) is None
    assert journal.take(2, 1, told(7)) == told(7)
    assert journal.known == [5, 7]


def test_a_repeated_token_is_dropped_and_a_gap_or_an_overlap_is_a_loss():
    journal = Journal(REQUEST)
    journal.begin(None)
    journal.take(1, 0, told(5, 6))
    assert journal.take(1, 0, told(5)) is None
    assert journal.take(1, 1, told(6)) is None
    for at, event in ((3, told(7)), (1, told(6, 7)), (3, END)):
        with pytest.raises(StreamLost, match="2 are known"):
            journal.take(1, at, event)


@pytest.mark.parametrize("reason", [FinishReason.ERROR, FinishReason.ABORTED])
def test_an_end_that_is_none_is_a_loss(reason):
    journal = Journal(REQUEST)
    journal.begin(None)
    with pytest.raises(StreamLost):
        journal.take(1, 0, Finished(reason=reason, error="the device is gone"))
    assert not journal.ended


def test_nothing_counts_after_the_end():
    journal = Journal(REQUEST)
    journal.begin(None)
    assert journal.take(1, 0, END) is END
    assert journal.take(1, 0, END) is None
    assert journal.take(1, 0, told(5)) is None


ANSWER = answer_to(REQUEST)
lives = st.tuples(st.integers(0, 12), st.integers(1, 5), st.booleans())
"""Tokens that a replica gives before it dies, how many in one event, and whether it wakes and says all of it again."""


@given(st.lists(lives, max_size=8))
def test_whatever_dies_and_wakes_the_answer_is_that_of_an_undisturbed_run(lives):
    """Replicas of any number, dying anywhere, each in batches of its own, some repeating what they said."""
    answer, lives = ANSWER, [*lives, (len(ANSWER), 1, False)]
    journal, given_out, zombies = Journal(REQUEST), [], []
    for life, size, wakes in lives:
        asked = journal.begin(None)
        attempt, at = journal.attempt, len(asked.known)
        dies_at = min(at + life, len(answer))
        while at < dies_at:
            event = told(*answer[at : at + size])
            given_out += journal.take(attempt, at, event).ids
            zombies += [(attempt, at, event)] if wakes else []
            at += len(event.ids)
            assert [journal.take(*late) for late in zombies] == [None] * len(zombies)
    assert journal.take(attempt, at, END) is END
    assert given_out == answer

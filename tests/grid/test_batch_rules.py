"""The life of a batch: every move that is allowed, and none from an end."""

import pytest

from idlegrid.grid.batch_rules import MOVES, OPEN, BatchStatus, may_follow


def test_what_has_ended_never_changes():
    for status in BatchStatus:
        assert (status in OPEN) == any(may_follow(status, other) for other in BatchStatus)


def test_every_status_can_be_reached():
    assert {after for moves in MOVES.values() for after in moves} == set(BatchStatus) - {BatchStatus.VALIDATING}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BatchStatus.VALIDATING, BatchStatus.COMPLETED),
        (BatchStatus.FINALIZING, BatchStatus.CANCELLING),
        (BatchStatus.CANCELLED, BatchStatus.IN_PROGRESS),
    ],
)
def test_what_may_not_follow(before, after):
    assert not may_follow(before, after)

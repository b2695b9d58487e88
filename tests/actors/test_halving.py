"""Batches in halves."""

from __future__ import annotations

import pytest
import torch

from idlegrid.actors.halving import in_halves


class Memory:
    """Computes squares of as many numbers at once as have room."""

    def __init__(self, room):
        self.room, self.runs, self.sizes = room, [], []

    def run(self, some):
        self.runs.append(list(some))
        if len(some) > self.room:
            raise torch.OutOfMemoryError
        return [one * one for one in some]


@pytest.mark.parametrize("room", [8, 7, 4, 3, 2, 1])
def test_everything_comes_back_in_order_whatever_has_room(room):
    memory = Memory(room)
    assert in_halves(range(7), memory.run, memory.sizes.append) == [0, 1, 4, 9, 16, 25, 36]
    assert all(size <= 3 for size in memory.sizes)
    assert (memory.sizes == []) == (room >= 7)


def test_what_fits_is_told_from_large_to_small():
    memory = Memory(1)
    in_halves(range(4), memory.run, memory.sizes.append)
    assert memory.sizes == [2, 1, 1]


def test_one_that_is_too_large_alone_fails():
    memory = Memory(0)
    with pytest.raises(torch.OutOfMemoryError):
        in_halves(range(2), memory.run, memory.sizes.append)
    assert memory.runs == [[0, 1], [0]]


def test_other_errors_are_not_tried_again():
    def run(some):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        in_halves(range(4), run, [].append)

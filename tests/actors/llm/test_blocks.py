import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from idlegrid.actors.llm.blocks import BlockPool, OutOfBlocks


def full_pool(blocks):
    """A pool whose blocks are all held, each registered under its number."""
    pool = BlockPool(blocks)
    for _ in range(blocks):
        block = pool.allocate()
        pool.register(block, bytes([block]))
    return pool


def test_every_block_is_given_once_and_then_none():
    pool = BlockPool(5)
    assert sorted(pool.allocate() for _ in range(5)) == [0, 1, 2, 3, 4]
    assert pool.free == 0
    with pytest.raises(OutOfBlocks, match="all 5 blocks are held"):
        pool.allocate()


def test_a_block_is_free_when_its_last_holder_releases_it():
    pool = BlockPool(1)
    block = pool.allocate()
    pool.share(block)
    pool.release(block)
    assert pool.free == 0
    pool.release(block)
    assert pool.free == 1


def test_a_free_block_is_found_by_its_name_until_it_is_given_to_others():
    pool = full_pool(2)
    pool.release(1)
    assert pool.match([b"\x00", b"\x01"]) == [0, 1]
    pool.share(1)
    assert pool.free == 0
    pool.release(1)
    assert pool.allocate() == 1
    assert pool.match([b"\x00", b"\x01"]) == [0]


def test_the_least_recently_used_is_taken_first():
    pool = full_pool(4)
    for block in (2, 0, 3, 1):
        pool.release(block)
    pool.share(0)
    pool.release(0)  # used again: now the last
    assert [pool.allocate() for _ in range(4)] == [2, 3, 1, 0]


def test_a_sequence_loses_its_tail_first():
    pool = full_pool(4)
    pool.release_all([0, 1, 2, 3])
    assert list(pool.free_blocks()) == [3, 2, 1, 0]


def test_blocks_that_remember_nothing_are_taken_before_those_that_do():
    pool = full_pool(2)
    pool.release_all([0, 1])
    pool = BlockPool(4)
    blocks = [pool.allocate() for _ in range(4)]
    pool.register(blocks[0], b"0")
    pool.release(blocks[0])
    pool.release(blocks[1])
    assert pool.allocate() == blocks[1]


def test_the_first_block_of_a_name_keeps_it():
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.register(first, b"n")
    pool.register(second, b"n")
    assert (pool.match([b"n"]), pool.name_of(second)) == ([first], None)
    pool.forget(second)
    assert pool.match([b"n"]) == [first]


def test_a_match_ends_at_the_first_hole():
    pool = full_pool(3)
    pool.forget(1)
    assert pool.match([b"\x00", b"\x01", b"\x02"]) == [0]


def test_forgetting_all_leaves_references_alone():
    pool = full_pool(3)
    pool.release(2)
    pool.forget_all()
    assert pool.match([b"\x00"]) == []
    assert (pool.free, pool.refs) == (1, [1, 1, 0])


class PoolMachine(RuleBasedStateMachine):
    """The linked list against a plain list."""

    @initialize(blocks=st.integers(1, 6))
    def start(self, blocks):
        self.pool = BlockPool(blocks)
        self.free = list(range(blocks))
        self.held = []
        self.names = {}

    @precondition(lambda self: self.free)
    @rule()
    def allocate(self):
        block = self.pool.allocate()
        assert block == self.free.pop(0)
        self.names.pop(block, None)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        block = data.draw(st.sampled_from(self.held))
        self.pool.release(block)
        self.held.remove(block)
        if block not in self.held:
            self.free.insert(len(self.free) if block in self.names else 0, block)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), name=st.binary(min_size=1, max_size=1))
    def register(self, data, name):
        block = data.draw(st.sampled_from(self.held))
        if block not in self.names:
            self.pool.register(block, name)
            if name not in self.names.values():
                self.names[block] = name

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def share_what_is_found(self, data):
        block = data.draw(st.sampled_from(sorted(self.names)))
        assert self.pool.match([self.names[block]]) == [block]
        self.pool.share(block)
        self.held.append(block)
        if block in self.free:
            self.free.remove(block)

    @invariant()
    def agrees(self):
        if hasattr(self, "pool"):
            assert list(self.pool.free_blocks()) == self.free
            assert self.pool.free == len(self.free)
            assert self.pool.cached() == {name: block for block, name in self.names.items()}


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase

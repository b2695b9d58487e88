"""What a sequence may ask of its blocks; whole lives of sequences are in test_sequencer.py."""

import math

from idlegrid.actors.llm.block_manager import BlockManager
from idlegrid.actors.llm.plan import Copy
from idlegrid.actors.llm.prefix import extra_keys
from idlegrid.actors.llm.request import Request
from idlegrid.actors.llm.sequence import Sequence


def a_sequence(tokens, number=0, salt=""):
    request = Request(id=str(number), prompt=tuple(range(tokens)))
    return Sequence(request, (0.0, number), extra_keys("m", salt), limit=999, arrival=0.0, deadline=math.inf)


def computed(manager, sequence, tokens):
    """Give it blocks for its first tokens, as if a step had computed them."""
    manager.make_writable(sequence, tokens)
    sequence.computed = tokens
    manager.register(sequence)


def test_room_is_what_its_own_blocks_and_the_free_ones_hold():
    manager, sequence = BlockManager(4, 4), a_sequence(20)
    assert (manager.room(sequence), manager.missing(sequence)) == (16, 5)
    computed(manager, sequence, 6)
    assert (len(sequence.blocks), manager.room(sequence), manager.missing(sequence)) == (2, 10, 3)


def test_a_shared_block_costs_one_more():
    manager, parent, child = BlockManager(4, 4), a_sequence(20), a_sequence(20, 1)
    computed(manager, parent, 6)
    manager.attach(child, parent.blocks, 6)
    assert manager.room(child) == manager.room(parent) == 6  # one of two free ones is for the copy
    assert manager.make_writable(child, 12) == Copy(parent.blocks[1], 2)
    assert child.blocks == [parent.blocks[0], 2, 3]
    assert manager.make_writable(parent, 8) is None  # the last holder writes in place


def test_without_a_block_for_the_copy_there_is_no_room():
    manager, parent, child = BlockManager(2, 4), a_sequence(20), a_sequence(20, 1)
    computed(manager, parent, 6)
    manager.attach(child, parent.blocks, 6)
    assert manager.room(child) == 0


def test_what_it_finds_costs_only_what_nobody_holds():
    manager, first, second = BlockManager(8, 4), a_sequence(20), a_sequence(20, 1)
    computed(manager, first, 20)
    found = manager.match(second)
    assert found == first.blocks[:4]  # its last token is left to compute
    assert manager.cost(second, found) == 1
    manager.release(first)
    assert manager.cost(second, found) == 5


def test_the_block_table_is_the_same_tuple_until_a_block_is_added():
    manager, sequence = BlockManager(8, 4), a_sequence(20)
    computed(manager, sequence, 5)
    table = sequence.table()
    computed(manager, sequence, 8)
    assert sequence.table() is table
    computed(manager, sequence, 9)
    assert sequence.table() == (*table, sequence.blocks[-1])

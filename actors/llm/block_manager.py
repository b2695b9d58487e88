"""The blocks of sequences: what fits, what is copied before it is written, what is found in the cache."""

from __future__ import annotations

from collections.abc import Iterable

from .blocks import BlockPool
from .plan import Copy
from .prefix import extend
from .sequence import Sequence


class BlockManager:
    """Gives a sequence the blocks for its positions. It decides nothing: who asks has looked that there is room."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.prefix_cache = prefix_cache

    def missing(self, sequence: Sequence) -> int:
        """Blocks that it doesn't have yet for the tokens that it has."""
        return max(0, -(-len(sequence.tokens) // self.block_size) - len(sequence.blocks))

    def room(self, sequence: Sequence) -> int:
        """How many tokens behind the scheduled ones find a slot now, without anybody giving up a block."""
        size, blocks, free = self.block_size, sequence.blocks, self.pool.free
        index = sequence.scheduled // size
        if index < len(blocks) and self.pool.refs[blocks[index]] > 1:
            if free == 0:
                return 0
            free -= 1  # for the copy
        return (len(blocks) + free) * size - sequence.scheduled

    def make_writable(self, sequence: Sequence, stop: int) -> Copy | None:
        """Give it blocks of its own from the first position that isn't scheduled up to `stop`.

        Only the first of them can be shared (by a fork). Returns the copy that must precede the writing, if any.
        """
        pool, blocks, copy = self.pool, sequence.blocks, None
        index = sequence.scheduled // self.block_size
        if index < len(blocks):
            block = blocks[index]
            if pool.refs[block] > 1:
                copy = Copy(block, pool.allocate())
                pool.release(block)
                sequence.set_block(index, copy.target)
            else:
                pool.forget(block)  # a fork that outlived the others: full for them, not for it
        while len(blocks) * self.block_size < stop:
            sequence.set_block(len(blocks), pool.allocate())
        return copy

    def match(self, sequence: Sequence) -> list[int]:
        """Cached blocks of its beginning. At least its last token is left: only computing gives logits."""
        if not self.prefix_cache:
            return []
        full = (len(sequence.tokens) - 1) // self.block_size
        self._name(sequence, full)
        return self.pool.match(sequence.hashes[:full])

    def cost(self, sequence: Sequence, found: list[int]) -> int:
        """Free blocks that all its tokens would take, if it starts with those found in the cache."""
        idle = sum(1 for block in found if self.pool.refs[block] == 0)
        return self.missing(sequence) - len(found) + idle

    def attach(self, sequence: Sequence, shared: list[int], computed: int) -> None:
        """A sequence without blocks begins with those of others, which hold its first `computed` positions."""
        for block in shared:
            self.pool.share(block)
        sequence.blocks = list(shared)
        sequence.computed = computed
        sequence.registered = computed // self.block_size

    def register(self, sequence: Sequence) -> None:
        """Tell the cache of blocks that are full now."""
        full = sequence.computed // self.block_size
        if full == sequence.registered:
            return
        if self.prefix_cache:
            self._name(sequence, full)
            for index in range(sequence.registered, full):
                self.pool.register(sequence.blocks[index], sequence.hashes[index])
        sequence.registered = full

    def release(self, sequence: Sequence) -> None:
        """Take all its blocks; what they hold can be found until they are given to others."""
        self.pool.release_all(sequence.drop_blocks())

    def unused_slots(self, sequences: Iterable[Sequence]) -> int:
        """Token slots in the blocks of these sequences that nobody has put anything in."""
        size, empty = self.block_size, dict[int, int]()
        for sequence in sequences:
            filled = sequence.scheduled
            for index in range(filled // size, len(sequence.blocks)):
                block, unused = sequence.blocks[index], min(size, (index + 1) * size - filled)
                empty[block] = min(unused, empty.get(block, size))  # a shared one counts once, as the fullest sees it
        return sum(empty.values())

    def _name(self, sequence: Sequence, blocks: int) -> None:
        if len(sequence.hashes) < blocks:
            extend(sequence.hashes, sequence.tokens, self.block_size, sequence.extra, blocks)

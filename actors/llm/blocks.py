"""Who holds which block of keys and values, which are free, and what the free ones still remember."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .prefix import BlockHash


class OutOfBlocks(RuntimeError):
    """Every block is held: somebody must give one back first."""


class BlockPool:
    """Counts references to blocks `0 … num_blocks - 1`. It knows nothing of what the pages hold; every call is O(1).

    A block that nobody holds is free, and remembers its content under its hash until it is allocated anew: the free
    list *is* the cache, least recently used first. Blocks without a hash are worth nothing and stand before all others.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.free = num_blocks
        """Blocks that nobody holds, those that still remember something included."""
        self.refs = [0] * num_blocks
        self._hash: list[BlockHash | None] = [None] * num_blocks
        self._cached: dict[BlockHash, int] = {}
        # An intrusive, circular list of the free blocks; the index `num_blocks` is the place before the first one.
        self._after: list[int] = [*range(1, num_blocks + 1), 0]
        self._before: list[int] = [num_blocks, *range(num_blocks)]

    def allocate(self) -> int:
        """Take the free block that was used least recently; it forgets what it held. Raises `OutOfBlocks`."""
        block = self._after[self.num_blocks]
        if block == self.num_blocks:
            raise OutOfBlocks(f"all {self.num_blocks} blocks are held; preempt a sequence before asking for more")
        self.forget(block)
        self._unlink(block)
        self.refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """One holder more of a block that is held or cached."""
        if self.refs[block] == 0:
            self._unlink(block)
        self.refs[block] += 1

    def release(self, block: int) -> None:
        """One holder less; the last one makes it free."""
        self.refs[block] -= 1
        if self.refs[block] > 0:
            return
        self.free += 1
        last = self._before[self.num_blocks] if self._hash[block] is not None else self.num_blocks
        self._link(block, after=last)

    def release_all(self, blocks: Sequence[int]) -> None:
        """Release a sequence's blocks, its tail first: the tail is of no use without what stands before it."""
        for block in reversed(blocks):
            self.release(block)

    def register(self, block: int, name: BlockHash) -> None:
        """The block is full and will not be written any more. The first block of a name keeps it."""
        if self._cached.setdefault(name, block) == block:
            self._hash[block] = name

    def forget(self, block: int) -> None:
        """Nobody finds the block by its hash any more: it is about to be written."""
        name = self._hash[block]
        if name is not None:
            del self._cached[name]
            self._hash[block] = None

    def forget_all(self) -> None:
        """Empty the cache, for when the pages' contents are lost."""
        for block in list(self._cached.values()):
            self.forget(block)

    def match(self, names: Iterable[BlockHash]) -> list[int]:
        """The blocks of the longest cached beginning of a chain. Nothing is taken: `share` them before allocating."""
        found: list[int] = []
        for name in names:
            block = self._cached.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def name_of(self, block: int) -> BlockHash | None:
        """The hash under which a block is found; None while it may be written."""
        return self._hash[block]

    def cached(self) -> dict[BlockHash, int]:
        """A copy of the cache: hash → block."""
        return dict(self._cached)

    def free_blocks(self) -> Iterator[int]:
        """The free blocks in the order in which they will be allocated."""
        block = self._after[self.num_blocks]
        while block != self.num_blocks:
            yield block
            block = self._after[block]

    def _link(self, block: int, *, after: int) -> None:
        behind = self._after[after]
        self._after[after] = self._before[behind] = block
        self._before[block], self._after[block] = after, behind

    def _unlink(self, block: int) -> None:
        before, after = self._before[block], self._after[block]
        self._after[before], self._before[after] = after, before
        self.free -= 1

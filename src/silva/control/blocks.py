"""The arithmetic of a pool of KV blocks: who holds how many, and which may be taken.

A block is *used* (one or more requests hold it) or *free*. A free one is blank, or *kept*: nobody
holds it, but a prefix index still finds its content, until the block is needed for something else.
Always `free + used == total`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple


class Allocation(NamedTuple):
    """Blocks given out, and those of them that had been kept: forget their keys."""

    blocks: tuple[int, ...]
    evicted: tuple[int, ...] = ()


class BlockPool:
    """Blocks 0 .. total - 1 with reference counts. Every operation costs O(blocks it names)."""

    def __init__(self, total: int) -> None:
        if total < 1:
            raise ValueError(f"a pool needs at least one block, not {total}")
        self.total = total
        self._held: set[int] = set()
        self._further: dict[int, int] = {}
        """Of blocks that several hold, how many beside the first."""
        self._blank: list[int] = []
        """Blank ones that were held before. Lowest numbers go first, so that a pool that is never
        full touches little memory.
        """
        self._fresh = 0
        """Blocks from this one on were never held."""
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._keep: set[int] = set()
        self.free = total
        """Blocks that `allocate` can give, the kept ones among them."""

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return self.total - self.free

    @property
    def kept(self) -> int:
        """Free blocks whose content can still be found."""
        return len(self._kept)

    def holders(self, block: int) -> int:
        """How many hold a block."""
        return 1 + self._further.get(block, 0) if block in self._held else 0

    def allocate(self, count: int) -> Allocation | None:
        """Hold `count` blocks once each: blank ones first, then kept ones, least recently used
        first. None, and nothing done, when fewer are free.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, but is {count}")
        if count > self.free:
            return None
        if not count:
            return Allocation(())
        blank = self._blank
        blocks = tuple(blank[: -count - 1 : -1])
        del blank[-count:]
        evicted: tuple[int, ...] = ()
        if len(blocks) < count:
            start, self._fresh = self._fresh, min(self._fresh + count - len(blocks), self.total)
            blocks += tuple(range(start, self._fresh))
            if len(blocks) < count:
                evicted = self._evict(count - len(blocks))
                blocks += evicted
        self._held.update(blocks)
        self.free -= count
        return Allocation(blocks, evicted)

    def share(self, block: int) -> None:
        """Hold a block once more. ValueError for a blank one: its content is nobody's."""
        if block in self._held:
            self._further[block] = self._further.get(block, 0) + 1
            return
        if block not in self._kept:
            raise ValueError(f"block {block} is blank and cannot be shared")
        del self._kept[block]
        self._held.add(block)
        self.free -= 1

    def release(self, blocks: Iterable[int]) -> None:
        """Let go of blocks, each once, in this order: what is let go first is evicted first.

        Raises ValueError for a block that nobody holds.
        """
        blocks = tuple(blocks)
        held, given = self._held, set(blocks)
        usual = len(given) == len(blocks) and given <= held and given.isdisjoint(self._keep)
        if usual and given.isdisjoint(self._further):
            held -= given
            self._blank += blocks
            self.free += len(blocks)
            return
        for block in blocks:
            self._release_one(block)

    def keep(self, block: int) -> None:
        """The index finds this block: once nobody holds it, keep it rather than blank it.

        Raises ValueError for a block that nobody holds.
        """
        if block not in self._held:
            raise ValueError(f"block {block} is free: nobody vouches for its content")
        self._keep.add(block)

    def check(self) -> None:
        """Count everything anew; AssertionError when blocks were lost or are in two places."""
        held, kept = self._held, set(self._kept)
        blank = {*self._blank, *range(self._fresh, self.total)}
        assert len(blank) == len(self._blank) + self.total - self._fresh, "a block is blank twice"
        assert not (held & blank or held & kept or blank & kept), "a block is in two places"
        assert held | blank | kept == set(range(self.total)), "a block is lost"
        assert self._further.keys() <= held and len(held) == self.used, "holders are miscounted"
        assert min(self._further.values(), default=1) > 0, "holders are miscounted"
        assert kept <= self._keep and not blank & self._keep, "kept blocks are miscounted"
        assert self.free == len(blank) + len(kept), "free + used != total"

    def _evict(self, count: int) -> tuple[int, ...]:
        """The least recently used of the kept blocks, which are kept no longer."""
        blocks = tuple(self._kept.popitem(last=False)[0] for _ in range(count))
        self._keep.difference_update(blocks)
        return blocks

    def _release_one(self, block: int) -> None:
        if block not in self._held:
            raise ValueError(f"block {block} is free already")
        further = self._further.get(block, 0)
        if further > 1:
            self._further[block] = further - 1
        elif further:
            del self._further[block]
        else:
            self._held.remove(block)
            self.free += 1
            if block in self._keep:
                self._kept[block] = None
            else:
                self._blank.append(block)

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
        self._holders = [0] * total
        # Lowest numbers first, so that a pool that is never full touches little memory.
        self._blank = list(range(total - 1, -1, -1))
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
        return self._holders[block]

    def allocate(self, count: int) -> Allocation | None:
        """Hold `count` blocks once each: blank ones first, then kept ones, least recently used
        first. None, and nothing done, when fewer are free.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, but is {count}")
        if count > self.free:
            return None
        holders, blank = self._holders, self._blank
        blocks = tuple(blank[: -count - 1 : -1])
        del blank[len(blank) - len(blocks) :]
        evicted: tuple[int, ...] = ()
        if len(blocks) < count:
            kept = self._kept
            evicted = tuple(kept.popitem(last=False)[0] for _ in range(count - len(blocks)))
            self._keep.difference_update(evicted)
            blocks += evicted
        for block in blocks:
            holders[block] = 1
        self.free -= count
        return Allocation(blocks, evicted)

    def share(self, block: int) -> None:
        """Hold a block once more. ValueError for a blank one: its content is nobody's."""
        if self._holders[block]:
            self._holders[block] += 1
            return
        if block not in self._kept:
            raise ValueError(f"block {block} is blank and cannot be shared")
        del self._kept[block]
        self._holders[block] = 1
        self.free -= 1

    def release(self, blocks: Iterable[int]) -> None:
        """Let go of blocks, each once, in this order: what is let go first is evicted first.

        Raises ValueError for a block that nobody holds.
        """
        holders, keep, blank = self._holders, self._keep, self._blank
        for block in blocks:
            held = holders[block]
            if not held:
                raise ValueError(f"block {block} is free already")
            holders[block] = held - 1
            if held == 1:
                self.free += 1
                if block in keep:
                    self._kept[block] = None
                else:
                    blank.append(block)

    def keep(self, block: int) -> None:
        """The index finds this block: once nobody holds it, keep it rather than blank it.

        Raises ValueError for a block that nobody holds.
        """
        if not self._holders[block]:
            raise ValueError(f"block {block} is free: nobody vouches for its content")
        self._keep.add(block)

    def check(self) -> None:
        """Count everything anew; AssertionError when blocks were lost or are in two places."""
        held = {block for block in range(self.total) if self._holders[block]}
        blank, kept = set(self._blank), set(self._kept)
        assert len(blank) == len(self._blank), "a block is blank twice"
        assert not (held & blank or held & kept or blank & kept), "a block is in two places"
        assert held | blank | kept == set(range(self.total)), "a block is lost"
        assert min(self._holders) >= 0 and len(held) == self.used, "holders are miscounted"
        assert kept <= self._keep and not blank & self._keep, "kept blocks are miscounted"
        assert self.free == len(blank) + len(kept), "free + used != total"

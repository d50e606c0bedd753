"""Blocks are conserved, whatever is done with them, and go in the right order."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from silva.control.blocks import Allocation, BlockPool


def test_blank_blocks_go_first_then_the_least_recently_kept() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == Allocation((0, 1, 2))
    pool.keep(0)
    pool.keep(2)
    pool.release([2, 0, 1])
    assert (pool.free, pool.kept, pool.used) == (4, 2, 0)
    taken = pool.allocate(3)
    assert taken is not None
    assert set(taken.blocks[:2]) == {1, 3} and taken.blocks[2] == 2 and taken.evicted == (2,)
    assert pool.allocate(2) is None
    pool.check()


def test_a_kept_block_can_be_held_again() -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    pool.keep(0)
    pool.share(0)
    pool.release([0])
    assert pool.holders(0) == 1
    pool.release([0])
    pool.share(0)
    assert (pool.used, pool.kept) == (1, 0)
    pool.release([0])
    assert pool.kept == 1


def test_an_evicted_block_is_blank_afterwards() -> None:
    pool = BlockPool(1)
    pool.allocate(1)
    pool.keep(0)
    pool.release([0])
    assert pool.allocate(1) == Allocation((0,), (0,))
    pool.release([0])
    assert pool.kept == 0


def test_mistakes_raise() -> None:
    pool = BlockPool(2)
    pool.allocate(1)
    pool.release([0])
    with pytest.raises(ValueError, match="block 0 is free already"):
        pool.release([0])
    with pytest.raises(ValueError, match="block 0 is blank"):
        pool.share(0)
    with pytest.raises(ValueError, match="nobody vouches"):
        pool.keep(0)
    with pytest.raises(ValueError, match="negative"):
        pool.allocate(-1)
    with pytest.raises(ValueError, match="at least one"):
        BlockPool(0)


class Pool(RuleBasedStateMachine):
    """Random holders of a small pool, against a dictionary of what each block should be."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6)
        self.holds: list[int] = []
        self.kept: list[int] = []
        self.keep_flag: set[int] = set()

    @rule(count=st.integers(0, 7))
    def allocate(self, count: int) -> None:
        free = self.pool.free
        taken = self.pool.allocate(count)
        assert (taken is None) == (count > free)
        if taken is not None:
            assert len(set(taken.blocks)) == count and not set(taken.blocks) & set(self.holds)
            assert list(taken.evicted) == self.kept[: len(taken.evicted)]
            self.kept = self.kept[len(taken.evicted) :]
            self.keep_flag -= set(taken.evicted)
            self.holds.extend(taken.blocks)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.holds)))
        self.pool.release([block])
        self.holds.remove(block)
        if block not in self.holds and block in self.keep_flag:
            self.kept.append(block)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted(self.holds)))
        self.pool.keep(block)
        self.keep_flag.add(block)

    @precondition(lambda self: self.holds or self.kept)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({*self.holds, *self.kept})))
        self.pool.share(block)
        if block in self.kept:
            self.kept.remove(block)
        self.holds.append(block)

    @invariant()
    def nothing_is_lost(self) -> None:
        self.pool.check()
        assert self.pool.used == len(set(self.holds))
        assert self.pool.kept == len(self.kept)
        assert all(self.pool.holders(b) == self.holds.count(b) for b in range(6))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=30, stateful_step_count=40)

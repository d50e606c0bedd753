"""Places never overlap, and what is given back can be taken again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.serving.cache.arena import ALIGNMENT, Arena, rounded


def test_equal_blocks_fill_it_to_the_last_place() -> None:
    arena = Arena(10 * 128)
    offsets = [arena.take(100) for _ in range(11)]
    assert offsets[:10] == [128 * k for k in range(10)]
    assert offsets[10] is None and arena.free_bytes == 0
    arena.give_back(3 * 128, 100)
    assert arena.take(100) == 3 * 128


def test_neighbours_that_are_free_are_one_place() -> None:
    arena = Arena(3 * 64)
    for _ in range(3):
        arena.take(64)
    for offset in (0, 128, 64):
        arena.give_back(offset, 64)
    assert arena.take(3 * 64) == 0


@pytest.mark.parametrize("capacity", [0, 1, 63])
def test_less_than_one_place_holds_nothing(capacity: int) -> None:
    assert Arena(capacity).take(0) is None


@pytest.mark.parametrize(("offset", "size"), [(0, 64), (64, 1), (32, 32), (-64, 64), (192, 65)])
def test_what_was_not_taken_cannot_be_given_back(offset: int, size: int) -> None:
    arena = Arena(256)
    arena.take(1)
    arena.take(1)
    arena.give_back(64, 1)
    arena.give_back(0, 1)
    with pytest.raises(ValueError, match="taken"):
        arena.give_back(offset, size)


@given(
    capacity=st.integers(0, 4000),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 900), st.integers(0, 99))),
)
def test_places_are_disjoint_and_nothing_is_lost(
    capacity: int, steps: list[tuple[bool, int, int]]
) -> None:
    arena, taken = Arena(capacity), list[tuple[int, int]]()
    for take, size, which in steps:
        if take:
            offset = arena.take(size)
            if offset is not None:
                assert offset % ALIGNMENT == 0
                taken.append((offset, size))
        elif taken:
            arena.give_back(*taken.pop(which % len(taken)))
        ends = 0
        for offset, length in sorted((offset, rounded(length)) for offset, length in taken):
            assert offset >= ends
            ends = offset + length
        assert ends <= capacity
        assert arena.free_bytes + sum(rounded(n) for _, n in taken) == arena.capacity_bytes
    for place in taken:
        arena.give_back(*place)
    if arena.capacity_bytes:
        assert arena.take(arena.capacity_bytes) == 0

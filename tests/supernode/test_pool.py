from __future__ import annotations

from silva.control.ring import Ring
from silva.supernode.pool import ContextPool

KEYS = [number.to_bytes(8, "big") for number in range(400)]
NAMES = [f"cache-{number}" for number in range(4)]


def full() -> ContextPool:
    pool = ContextPool(4, 4 * 1000 * 10, 10)
    for key in KEYS:
        pool.insert(key)
    return pool


def test_a_leading_run_is_found() -> None:
    pool = ContextPool(4, 40_000, 10)
    for key in (*KEYS[:3], KEYS[4]):
        pool.insert(key)
    assert pool.found(KEYS) == KEYS[:3]
    assert pool.found(KEYS[4:]) == [KEYS[4]]


def test_a_lost_instance_loses_its_own_keys_and_no_others() -> None:
    pool, ring = full(), Ring(NAMES)
    assert len(pool) == len(KEYS)
    pool.lose(2)
    for key in KEYS:
        assert bool(pool.found([key])) == (ring.owner(key) != "cache-2")
    pool.restore(2)
    for key in KEYS:
        assert bool(pool.found([key])) == (ring.owner(key) != "cache-2")


def test_its_keys_go_to_its_neighbours_until_it_is_back() -> None:
    pool = full()
    pool.lose(2)
    for key in KEYS:
        pool.insert(key)
    assert all(pool.found([key]) for key in KEYS)
    for number in (0, 1, 3):
        pool.lose(number)
    pool.insert(KEYS[0])
    assert pool.found(KEYS) == [] and len(pool) == 0


def test_a_small_pool_keeps_what_was_used_last() -> None:
    pool = ContextPool(1, 100, 10)
    for key in KEYS[:10]:
        pool.insert(key)
    assert pool.found([KEYS[0]])
    pool.insert(KEYS[10])
    assert pool.found([KEYS[0]]) and not pool.found([KEYS[1]]) and len(pool) == 10

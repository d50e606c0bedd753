"""Blocks on their way to the cache: bounded, in an order that keeps prefixes, each its own space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from silva.control import scheduler
from silva.control.integrity import check
from silva.control.prefix import CacheIdentity
from silva.control.request import Request, SamplingParams, StepResult, StoredBlock
from silva.control.slo import LinearStepTime
from silva.control.state import Settings, State
from silva.serving.peers.offers import AT_ONCE, PINNED_SHARE, Offers

BLOCK = 4
IDENTITY = CacheIdentity("model", "float32", BLOCK)


class Cache:
    """A cache client that keeps what it is offered until it is told to answer."""

    def __init__(self) -> None:
        self.members: tuple[str, ...] = ("cache-1",)
        self.open: list[Callable[[], None]] = []
        self.taken: list[tuple[str, dict[bytes, int]]] = []

    def offer(self, namespace: str, blocks: Mapping[bytes, int], then: Callable[[], None]) -> None:
        self.taken.append((namespace, dict(blocks)))
        self.open.append(then)

    def answer(self) -> None:
        while self.open:
            self.open.pop(0)()

    def keys(self) -> list[bytes]:
        return [key for _, blocks in self.taken for key in blocks]


class Pool:
    """A scheduler's state whose requests are computed by saying so."""

    def __init__(self, blocks: int) -> None:
        self.state = State(Settings(blocks, blocks * BLOCK, BLOCK, step_tokens=blocks * BLOCK))

    def compute(self, name: str, tokens: int, namespace: str = "") -> list[StoredBlock]:
        """A prompt and one token, which ends it."""
        sum_of_name = sum(map(ord, name))
        prompt = tuple(range(sum_of_name, sum_of_name + tokens))
        request = Request(name, prompt, SamplingParams(max_tokens=1), namespace=namespace)
        scheduler.add(self.state, request, IDENTITY.keys(request))
        plan = scheduler.schedule(self.state, 0.0, LinearStepTime(0.01))
        return scheduler.update(self.state, StepResult(plan.step, 0.01)).stored

    @property
    def pinned(self) -> int:
        check(self.state)
        return self.state.counts().blocks_used


def offers(pool: Pool, cache: Any) -> Offers:
    return Offers(pool.state, cache)


def test_so_many_are_pinned_and_the_others_follow() -> None:
    pool, cache = Pool(64 * PINNED_SHARE), Cache()
    blocks = pool.compute("a", 200 * BLOCK)
    offers(pool, cache).add(blocks)
    assert pool.pinned == 64 and [len(b) for _, b in cache.taken] == [AT_ONCE, AT_ONCE]
    cache.answer()
    assert pool.pinned == 0 and all(len(b) <= AT_ONCE for _, b in cache.taken)
    # the beginning of the prompt is the last that the cache hears of
    assert cache.keys() == [each.key for each in reversed(blocks)]


def test_what_left_the_pool_while_it_waited_is_not_offered() -> None:
    pool, cache = Pool(2 * PINNED_SHARE), Cache()
    first = pool.compute("a", 6 * BLOCK)
    offered = offers(pool, cache)
    offered.add(first)
    assert pool.pinned == 2
    pool.compute("z", 13 * BLOCK)
    cache.answer()
    kept = [each.key for each in first if pool.state.index.find(each.key) == each.block]
    assert kept and set(cache.keys()) == {*kept} and len(kept) < len(first)
    assert pool.pinned == 0


def test_each_offer_is_of_one_namespace() -> None:
    pool, cache = Pool(40 * PINNED_SHARE), Cache()
    of = {name: pool.compute(name, 8 * BLOCK, namespace=name) for name in ("x", "y", "")}
    offered = offers(pool, cache)
    offered.add([*of["x"], *of["y"], *of[""]])
    cache.answer()
    for space, blocks in of.items():
        told = {
            key: block
            for name, taken in cache.taken
            if name == space
            for key, block in taken.items()
        }
        assert told == {each.key: each.block for each in blocks}
    assert pool.pinned == 0


@pytest.mark.parametrize("later", [False, True])
def test_without_cache_peers_nothing_waits(later: bool) -> None:
    pool, cache = Pool(2 * PINNED_SHARE), Cache()
    blocks = pool.compute("a", 6 * BLOCK)
    offered = offers(pool, cache)
    if later:
        offered.add(blocks)
    cache.members = ()
    offered.add(blocks)
    cache.answer()
    assert pool.pinned == 0 and len(cache.keys()) == 2 * later
    cache.members = ("cache-1",)
    offered.add(blocks)
    cache.answer()
    assert {each.key for each in blocks} <= set(cache.keys())


def test_the_queue_is_no_longer_than_the_pool() -> None:
    pool, cache = Pool(2 * PINNED_SHARE), Cache()
    offered = offers(pool, cache)
    for name in "abcdefgh":
        offered.add(pool.compute(name * 3, 8 * BLOCK))
    assert len(offered._waiting) <= pool.state.pool.total
    cache.answer()
    assert pool.pinned == 0

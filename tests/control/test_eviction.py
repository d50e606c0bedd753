"""The tiers' policy against a plain model: LRU, quotas, pins, and bytes that add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.eviction import TierPolicy


def test_the_least_recently_used_goes() -> None:
    policy = TierPolicy[str](30)
    assert [policy.insert(key, 10) for key in "abc"] == [(), (), ()]
    policy.touch("a")
    assert policy.insert("d", 15) == ("b", "c")
    assert policy.oldest_first() == ("a", "d")
    assert policy.used_bytes == 25


def test_a_key_held_is_touched_by_insert() -> None:
    policy = TierPolicy[str](20)
    policy.insert("a", 10)
    policy.insert("b", 10)
    assert policy.insert("a", 10) == ()
    assert policy.insert("c", 10) == ("b",)


def test_a_namespace_over_its_quota_evicts_its_own() -> None:
    policy = TierPolicy[str](100, quota_bytes=20, quotas={"big": 60})
    policy.insert("other", 10, "x")
    policy.insert("a", 10, "y")
    policy.insert("b", 10, "y")
    assert policy.insert("c", 10, "y") == ("a",)
    assert policy.used_by("y") == 20
    assert policy.insert("huge", 60, "big") == ()
    assert policy.insert("over", 21, "y") is None


def test_pinned_keys_stay() -> None:
    policy = TierPolicy[str](20)
    policy.insert("a", 10)
    policy.insert("b", 10)
    assert policy.pin("a") and policy.pin("a")
    assert policy.insert("c", 10) == ("b",)
    assert policy.insert("d", 20) is None
    with pytest.raises(ValueError, match="pinned 2 times"):
        policy.remove("a")
    policy.unpin("a")
    assert policy.insert("d", 20) is None
    policy.unpin("a")
    assert policy.insert("d", 20) == ("c", "a")


def test_what_is_not_held() -> None:
    policy = TierPolicy[str](10)
    assert not policy.touch("a")
    assert not policy.pin("a")
    assert not policy.remove("a")
    with pytest.raises(ValueError, match="not pinned"):
        policy.unpin("a")


def test_mistakes_are_refused() -> None:
    policy = TierPolicy[str](10)
    policy.insert("a", 5, "x")
    for size, namespace in ((6, "x"), (5, "y")):
        with pytest.raises(ValueError, match="is held with 5 bytes"):
            policy.insert("a", size, namespace)
    with pytest.raises(ValueError, match="size_bytes"):
        policy.insert("b", -1)
    with pytest.raises(ValueError, match="capacity_bytes"):
        TierPolicy[str](-1)


class Model:
    """The same policy written slowly: a list of (key, size, namespace), oldest first."""

    def __init__(self, capacity: int, quota: int) -> None:
        self.capacity, self.quota = capacity, quota
        self.line: list[tuple[int, int, str]] = []
        self.pins: dict[int, int] = {}

    def used(self, namespace: str | None = None, pinned_only: bool = False) -> int:
        return sum(
            size
            for key, size, name in self.line
            if namespace in (None, name) and (not pinned_only or self.pins.get(key))
        )

    def insert(self, key: int, size: int, namespace: str) -> tuple[int, ...] | None:
        if self.used(namespace, True) + size > self.quota:
            return None
        if self.used(None, True) + size > self.capacity:
            return None
        gone = []
        for name, limit in ((namespace, self.quota), (None, self.capacity)):
            while self.used(name) + size > limit:
                victim = next(
                    row for row in self.line if name in (None, row[2]) and not self.pins.get(row[0])
                )
                self.line.remove(victim)
                gone.append(victim[0])
        self.line.append((key, size, namespace))
        return tuple(gone)

    def renew(self, key: int) -> None:
        row = next(row for row in self.line if row[0] == key)
        self.line.remove(row)
        self.line.append(row)


@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.lists(st.tuples(st.sampled_from("ittrpu"), st.integers(0, 11)), max_size=80),
)
def test_agrees_with_the_plain_model(
    capacity: int, quota: int, moves: list[tuple[str, int]]
) -> None:
    policy, model = TierPolicy[int](capacity, quota_bytes=quota), Model(capacity, quota)
    for move, key in moves:
        size, namespace = 3 + key, "ab"[key % 2]
        held = any(row[0] == key for row in model.line)
        if move == "i" and not held:
            assert policy.insert(key, size, namespace) == model.insert(key, size, namespace)
        elif move == "t" or (move == "i" and held):
            assert policy.touch(key) == held
            if held and not model.pins.get(key):
                model.renew(key)
        elif move == "r" and not model.pins.get(key):
            assert policy.remove(key) == held
            model.line = [row for row in model.line if row[0] != key]
        elif move == "p":
            assert policy.pin(key) == held
            if held:
                model.pins[key] = model.pins.get(key, 0) + 1
        elif move == "u" and model.pins.get(key):
            policy.unpin(key)
            model.pins[key] -= 1
            if not model.pins[key]:
                model.renew(key)
        assert policy.used_bytes == model.used() <= capacity
        assert all(policy.used_by(name) == model.used(name) <= quota for name in "ab")
        assert policy.oldest_first() == tuple(
            row[0] for row in model.line if not model.pins.get(row[0])
        )

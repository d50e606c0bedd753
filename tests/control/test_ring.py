"""The ring is stable: a change of peers moves the keys it must and no others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.control.ring import Ring

KEYS = [f"key {number}".encode() for number in range(1000)]
PEERS = st.sets(st.from_regex(r"cache-[0-9]{1,3}", fullmatch=True), max_size=6)


@given(PEERS, st.integers(0, 5))
def test_equal_peers_mean_an_equal_ring(peers: set[str], turn: int) -> None:
    order = sorted(peers)
    plain = Ring(order, points=4)
    ring = Ring(points=4)
    for peer in order[turn:] + order[:turn]:
        ring = ring.with_peer(peer)
    assert [ring.owner(key) for key in KEYS[:50]] == [plain.owner(key) for key in KEYS[:50]]


@given(PEERS)
def test_a_new_peer_only_takes_and_a_lost_one_only_gives(peers: set[str]) -> None:
    before = Ring(peers, points=8)
    after = before.with_peer("new")
    again = after.without_peer("new")
    for key in KEYS[:100]:
        assert after.owner(key) in (before.owner(key), "new")
        assert again.owner(key) == before.owner(key)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_new_peer_takes_its_share(count: int) -> None:
    before = Ring(f"cache-{number}" for number in range(count))
    after = before.with_peer("new")
    moved = sum(before.owner(key) != after.owner(key) for key in KEYS) / len(KEYS)
    assert moved == pytest.approx(1 / (count + 1), rel=0.35)


def test_shares_are_even() -> None:
    ring = Ring(f"cache-{number}" for number in range(5))
    shares = {peer: len(keys) / len(KEYS) for peer, keys in ring.by_owner(KEYS).items()}
    assert len(shares) == 5
    assert all(share == pytest.approx(1 / 5, rel=0.35) for share in shares.values())


@given(PEERS, st.binary(max_size=40), st.integers(0, 8))
def test_owners_are_different_and_the_first_is_the_owner(
    peers: set[str], key: bytes, count: int
) -> None:
    ring = Ring(peers, points=16)
    owners = ring.owners(key, count)
    assert len(set(owners)) == len(owners) == min(count, len(peers))
    if owners:
        assert owners[0] == ring.owner(key)
    if len(owners) > 1:
        assert ring.without_peer(owners[0]).owner(key) == owners[1]


def test_keys_are_dealt_in_order() -> None:
    ring = Ring(("a", "b"))
    dealt = ring.by_owner(KEYS[:20])
    for owner, keys in dealt.items():
        assert list(keys) == [key for key in KEYS[:20] if ring.owner(key) == owner]
    assert Ring().by_owner(KEYS) == {} and Ring().owner(b"k") is None


def test_the_hash_is_a_fixed_one() -> None:
    """Processes of other versions must agree: a change of the hash needs a deliberate decision."""
    ring = Ring(("cache-0", "cache-1", "cache-2"))
    assert [str(ring.owner(key))[-1] for key in KEYS[:6]] == list("020020")


def test_a_peer_needs_a_point() -> None:
    with pytest.raises(ValueError, match="points"):
        Ring(points=0)

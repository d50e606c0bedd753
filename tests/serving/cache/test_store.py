"""The store: RAM, namespaces, leases, faults of the peers it pulls from, many threads."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cache_blocks import NOW_S, SIZE, SPACE, Peer, Stores, content, key

from silva.transfer import CorruptError, GoneError


def test_what_was_put_is_found_and_right(stores: Stores, peer: Peer) -> None:
    store = stores()
    assert peer.put(store, [1, 2], SIZE) == ["stored", "stored"]
    assert store.contains([key(n) for n in (1, 2, 3)], SPACE) == [True, True, False]
    assert peer.found(store, [1, 2, 3], SIZE) == [1, 2]
    assert peer.put(store, [2], SIZE) == ["known"]
    stats = store.stats()
    assert (stats.ram_hits, stats.misses, stats.stored, stats.known) == (2, 1, 2, 1)
    assert (stats.ram_blocks, stats.ram_bytes, stats.leases) == (2, 2 * SIZE, 0)


def test_several_at_once_are_pulled_each_into_its_place(stores: Stores, peer: Peer) -> None:
    store = stores(ram=200)
    numbers = list(range(150))
    sources = [peer.has(content(n, SIZE))[1] for n in numbers]
    sources[7] = replace(sources[7], checksum=0)
    kept = store.put_many([key(n) for n in numbers], SPACE, sources, peer.store_side, NOW_S)
    assert [n for n in numbers if kept[n] != "stored"] == [7] and kept[7] == "failed"
    assert peer.found(store, numbers, SIZE) == [n for n in numbers if n != 7]
    assert store.put_many([], SPACE, [], peer.store_side, NOW_S) == []


@pytest.mark.parametrize("count", [0, 1, 3, 70])
def test_sources_that_are_not_as_many_as_keys_leave_nothing_behind(
    stores: Stores, peer: Peer, count: int
) -> None:
    store = stores(ram=4)
    source = peer.has(content(1, SIZE))[1]
    with pytest.raises(ValueError, match="2 keys"):
        store.put_many([key(1), key(2)], SPACE, [source] * count, peer.store_side, NOW_S)
    assert store.stats().ram_bytes == 0
    # Nothing stayed pinned: one block can have all of it.
    assert peer.put(store, [99], 4 * SIZE) == ["stored"]


def test_the_same_key_twice_in_one_put_is_pulled_once(stores: Stores, peer: Peer) -> None:
    store = stores()
    source = peer.has(content(1, SIZE))[1]
    kept = store.put_many([key(1)] * 2, SPACE, [source] * 2, peer.store_side, NOW_S)
    assert kept == ["stored", "known"] and peer.found(store, [1], SIZE) == [1]


def test_the_least_recently_used_leaves_ram(stores: Stores, peer: Peer) -> None:
    store = stores(ram=3)
    peer.put(store, [1, 2, 3], SIZE)
    peer.found(store, [1], SIZE)
    peer.put(store, [4], SIZE)
    assert peer.found(store, [1, 2, 3, 4], SIZE) == [1, 3, 4]
    assert store.stats().ram_evictions == 1


def test_the_beginning_of_a_prefix_leaves_last(stores: Stores, peer: Peer) -> None:
    store = stores(ram=4)
    peer.put(store, [1, 2, 3, 4], SIZE)
    peer.found(store, [1, 2, 3, 4], SIZE)  # one lookup: 1 is the beginning
    peer.put(store, [5, 6], SIZE)
    assert store.contains([key(n) for n in range(1, 7)], SPACE) == [1, 1, 0, 0, 1, 1]


def test_a_block_that_is_offered_again_was_used(stores: Stores, peer: Peer) -> None:
    store = stores(ram=3)
    peer.put(store, [1, 2, 3], SIZE)
    assert peer.put(store, [2, 1], SIZE) == ["known", "known"]
    peer.put(store, [4, 5], SIZE)
    assert store.contains([key(n) for n in range(1, 6)], SPACE) == [1, 0, 0, 1, 1]


def test_no_hit_across_namespaces(stores: Stores, peer: Peer) -> None:
    store = stores(disk=8)
    peer.put(store, [1], SIZE, space="a")
    store.flush(30)
    assert peer.found(store, [1], SIZE, space="b") == []
    assert store.contains([key(1)], "b") == [False]
    # The same key with other content elsewhere is another block.
    peer.put(store, [1], SIZE // 2, space="b")
    assert peer.found(store, [1], SIZE // 2, space="b") == [1]
    assert peer.found(store, [1], SIZE, space="a") == [1]


def test_a_namespace_has_its_quota_in_each_tier(stores: Stores, peer: Peer) -> None:
    quotas = {"small": 2 * SIZE}
    store = stores(ram=8, disk=8, namespace_share=0.5, quotas=quotas)
    peer.put(store, range(6), SIZE, space="large")
    peer.put(store, range(10, 14), SIZE, space="small")
    assert store.flush(30)
    assert sum(store.contains([key(n) for n in range(6)], "large")) == 4
    assert peer.found(store, range(10, 14), SIZE, space="small") == [12, 13]
    assert store.stats().ram_blocks == 6


def test_blocks_of_several_sizes_share_the_memory(stores: Stores, peer: Peer) -> None:
    store = stores(ram=16)
    sizes = {n: random.Random(n).choice([1, 100, SIZE, 3 * SIZE, 5 * SIZE]) for n in range(100)}
    for number, size in sizes.items():
        assert peer.put(store, [number], size) == ["stored"]
        assert peer.found(store, [number], size) == [number]
    hits = [n for n, size in sizes.items() if peer.found(store, [n], size)]
    assert len(hits) > 3
    # One as large as the memory: everything else must go, gaps or not.
    assert peer.put(store, [200], 16 * SIZE) == ["stored"]
    assert peer.found(store, [200], 16 * SIZE) == [200] and store.stats().ram_blocks == 1


@pytest.mark.parametrize("length", [8 * SIZE + 1, 2**62, 2**64 - 1, -1])
def test_a_block_that_does_not_fit_is_refused(stores: Stores, peer: Peer, length: int) -> None:
    store = stores(ram=8)
    peer.put(store, [1], SIZE)
    source = replace(peer.has(b"")[1], length=length)
    assert store.put(key(2), SPACE, source, peer.store_side, NOW_S) == "refused"
    assert peer.found(store, [1, 2], SIZE) == [1] and store.stats().refused == 1


class TestLeases:
    def test_a_block_that_was_handed_out_stays(self, stores: Stores, peer: Peer) -> None:
        store = stores(ram=2)
        peer.put(store, [1, 2], SIZE)
        (piece,) = store.lookup([key(1)], SPACE, NOW_S, "a")
        peer.put(store, [3, 4, 5], SIZE)
        assert piece and peer.read(piece) == content(1, SIZE)
        assert store.stats().leases == 1
        store.release("a", NOW_S)
        peer.put(store, [6, 7], SIZE)
        with pytest.raises(CorruptError):
            peer.read(piece)
        assert store.stats().leases == 0

    def test_nothing_is_taken_in_while_everything_is_handed_out(
        self, stores: Stores, peer: Peer
    ) -> None:
        store = stores(ram=2, lease_s=5.0)
        peer.put(store, [1, 2], SIZE)
        pieces = store.lookup([key(1), key(2)], SPACE, NOW_S, "a")
        assert peer.put(store, [3], SIZE) == ["refused"]
        assert [piece and peer.read(piece) for piece in pieces] == [
            content(1, SIZE),
            content(2, SIZE),
        ]
        source = peer.has(content(3, SIZE))[1]
        assert store.put(key(3), SPACE, source, peer.store_side, NOW_S + 4.9) == "refused"
        # The holder never came back.
        assert store.put(key(3), SPACE, source, peer.store_side, NOW_S + 5.0) == "stored"
        store.release("a", NOW_S + 6)

    def test_leases_of_several_holders_are_their_own(self, stores: Stores, peer: Peer) -> None:
        store = stores(ram=1)
        peer.put(store, [1], SIZE)
        for holder in ("a", "b", "b"):
            store.lookup([key(1), key(9)], SPACE, NOW_S, holder)
        store.release("a", NOW_S)
        store.release("a", NOW_S)
        store.release("nobody", NOW_S)
        assert peer.put(store, [2], SIZE) == ["refused"]
        store.release("b", NOW_S)
        assert peer.put(store, [2], SIZE) == ["stored"]

    def test_silent_holders_are_forgotten(self, stores: Stores, peer: Peer) -> None:
        store = stores(ram=1)
        peer.put(store, [1], SIZE)
        store.lookup([key(1)], SPACE, NOW_S, "a")
        store.expire(NOW_S + 9)
        assert store.stats().leases == 1
        store.expire(NOW_S + 10)
        assert store.stats().leases == 0

    def test_a_wrong_key_leaves_no_lease(self, stores: Stores, peer: Peer) -> None:
        store = stores(ram=1)
        peer.put(store, [1], SIZE)
        with pytest.raises(ValueError, match="32 bytes"):
            store.lookup([key(1), b"short"], SPACE, NOW_S, "a")
        assert peer.put(store, [2], SIZE) == ["stored"]


class TestPeersThatFail:
    @pytest.mark.parametrize(
        ("fault", "value"),
        [("corrupt", 1), ("drop", 1), ("stopped", True), ("dead", True), ("dies_after", 0)],
    )
    def test_what_did_not_arrive_is_not_kept(
        self, stores: Stores, peer: Peer, fault: str, value: Any
    ) -> None:
        store = stores(ram=1, disk=4)
        source = peer.has(content(1, SIZE))[1]
        setattr(peer.transfer.faults, fault, value)
        assert store.put(key(1), SPACE, source, peer.store_side, NOW_S) == "failed"
        setattr(peer.transfer.faults, fault, type(value)(0) if fault != "dies_after" else None)
        peer.transfer.faults.dead = False
        assert store.contains([key(1)], SPACE) == [False]
        assert peer.found(store, [1], SIZE) == []
        assert store.stats().failed == 1 and store.stats().ram_bytes == 0
        assert peer.put(store, [1], SIZE) == ["stored"]
        assert peer.found(store, [1], SIZE) == [1]

    def test_a_lookup_does_not_wait_for_a_block_on_its_way(
        self, stores: Stores, peer: Peer
    ) -> None:
        store = stores()
        arrived, go_on = threading.Event(), threading.Event()

        def sleep(_: float) -> None:
            arrived.set()
            go_on.wait(30)

        peer.transfer.faults.delay_s = 0.1
        peer.store_side._sleep = sleep
        thread = threading.Thread(target=peer.put, args=(store, [1], SIZE))
        thread.start()
        assert arrived.wait(30)
        assert peer.found(store, [1], SIZE) == []
        assert peer.put(store, [1], SIZE) == ["known"]
        go_on.set()
        thread.join()
        peer.transfer.faults.delay_s = 0.0
        assert peer.found(store, [1], SIZE) == [1]


def test_changed_bytes_in_ram_are_refused_by_readers_and_healed_by_the_next_put(
    stores: Stores, peer: Peer
) -> None:
    store = stores()
    peer.put(store, [1], SIZE)
    (piece,) = store.lookup([key(1)], SPACE, NOW_S, "a")
    assert piece
    store._exposed.buffer[piece.offset] ^= 1
    with pytest.raises(CorruptError):
        peer.read(piece)
    # Its place is handed out still.
    assert peer.put(store, [1], SIZE) == ["known"]
    store.release("a", NOW_S)
    assert peer.put(store, [1], SIZE) == ["stored"]
    assert peer.found(store, [1], SIZE) == [1] and store.stats().healed == 1


def test_a_closed_store_gives_and_takes_nothing(stores: Stores, peer: Peer) -> None:
    store = stores(disk=8)
    peer.put(store, [1], SIZE)
    (piece,) = store.lookup([key(1)], SPACE, NOW_S, "a")
    store.close()
    assert piece
    with pytest.raises(GoneError):
        peer.read(piece)
    assert peer.put(store, [2], SIZE) == ["refused"]


def test_many_threads_put_and_look_up_and_nothing_wrong_is_given(
    stores: Stores, peer: Peer
) -> None:
    """RAM for a third and disk for two thirds of the blocks, all held by some thread or other."""
    store = stores(ram=16, disk=30)
    sources = {n: peer.has(content(n, SIZE))[1] for n in range(48)}

    def work(seed: int) -> int:
        draw, hits = random.Random(seed), 0
        for _ in range(60):
            numbers = draw.sample(range(48), 3)
            if draw.random() < 0.5:
                pieces = [sources[n] for n in numbers]
                store.put_many([key(n) for n in numbers], SPACE, pieces, peer.store_side, NOW_S)
            found = store.lookup([key(n) for n in numbers], SPACE, NOW_S, f"thread-{seed}")
            for number, piece in zip(numbers, found, strict=True):
                if piece is not None:
                    assert peer.read(piece) == content(number, SIZE)
                    hits += 1
            store.release(f"thread-{seed}", NOW_S)
        return hits

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) > 100
    stats = store.stats()
    assert stats.leases == 0 and stats.corrupt == 0 and stats.failed == 0
    assert stats.ram_bytes == stats.ram_blocks * SIZE <= 16 * SIZE
    assert store.flush(30) and store.stats().unwritten == 0
    # Nothing stayed pinned: one block can have all of it.
    assert peer.put(store, [99], 16 * SIZE) == ["stored"]

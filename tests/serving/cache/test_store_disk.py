"""The store's disk tier: what left RAM, restarts, damage, a full disk, siblings."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cache_blocks import NOW_S, SIZE, SPACE, Peer, Stores, key, wait_until

from silva.errors import ConfigError
from silva.serving.cache import block_file, disk, writer


def test_what_left_ram_is_read_from_disk(stores: Stores, peer: Peer) -> None:
    store = stores(ram=2, disk=8)
    for number in range(5):
        peer.put(store, [number], SIZE)
        assert store.flush(30)
    assert peer.found(store, range(2), SIZE) == [0, 1]
    assert peer.found(store, [0, 1], SIZE) == [0, 1]
    stats = store.stats()
    assert (stats.disk_hits, stats.ram_hits, stats.misses) == (2, 2, 0)
    assert (stats.disk_blocks, stats.lost_unwritten, stats.unwritten) == (5, 0, 0)
    assert peer.put(store, [3], SIZE) == ["known"]


def test_blocks_of_either_tier_are_counted_once(stores: Stores, peer: Peer) -> None:
    store = stores(ram=8, disk=8)
    peer.put(store, [1, 2], SIZE)
    assert store.flush(30)
    assert store.count() == 2
    store.close()
    # a quota that the least charge of the disk exceeds: these stay in RAM alone
    again = stores(ram=8, disk=8, quotas={"small": 2 * SIZE})
    assert peer.put(again, [3, 4], SIZE, "small") == ["stored"] * 2
    wait_until(lambda: not again.stats().unwritten)
    stats = again.stats()
    assert (stats.ram_blocks, stats.disk_blocks, again.count()) == (2, 2, 4)
    assert peer.found(again, [1], SIZE) == [1]
    assert again.count() == 4


def test_it_survives_a_restart(stores: Stores, peer: Peer) -> None:
    store = stores(ram=4, disk=8)
    peer.put(store, range(4), SIZE)
    store.close()
    store.close()
    again = stores(ram=4, disk=8)
    assert peer.found(again, range(5), SIZE) == [0, 1, 2, 3]
    assert again.stats().disk_hits == 4


def test_a_hit_in_ram_counts_on_disk_too(stores: Stores, peer: Peer) -> None:
    store = stores(ram=8, disk=2)
    for number in (1, 2):
        peer.put(store, [number], SIZE)
        assert store.flush(30)
    peer.found(store, [1], SIZE)
    peer.put(store, [3], SIZE)
    store.close()
    assert peer.found(stores(ram=8, disk=2), [1, 2, 3], SIZE) == [1, 3]


def test_the_disk_gives_up_a_prefix_from_its_end(stores: Stores, peer: Peer) -> None:
    store = stores(ram=8, disk=3)
    peer.put(store, range(3), SIZE)
    assert store.flush(30)
    assert peer.found(store, range(3), SIZE) == [0, 1, 2]
    peer.put(store, [9], SIZE)
    store.close()
    assert peer.found(stores(ram=8, disk=3), [0, 1, 2, 9], SIZE) == [0, 1, 9]


def test_a_damaged_file_is_a_miss_and_room_comes_back(stores: Stores, peer: Peer) -> None:
    store = stores(ram=1, disk=8)
    peer.put(store, [1], SIZE)
    store.close()
    (path,) = stores.folder.rglob("*.kv")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = stores(ram=1, disk=8)
    assert peer.found(again, [1], SIZE) == []
    stats = again.stats()
    assert (stats.corrupt, stats.disk_hits, stats.misses) == (1, 0, 1)
    assert (stats.ram_blocks, stats.disk_blocks) == (0, 0)
    assert peer.put(again, [1], SIZE) == ["stored"] and peer.found(again, [1], SIZE) == [1]


def test_no_room_in_ram_is_a_miss(stores: Stores, peer: Peer) -> None:
    store = stores(ram=1, disk=8)
    for number in (1, 2):
        peer.put(store, [number], SIZE)
        store.flush(30)
    assert store.lookup([key(2), key(1)], SPACE, NOW_S, "a")[1] is None
    store.release("a", NOW_S)
    assert peer.found(store, [1], SIZE) == [1]


def test_a_full_disk_leaves_ram_alone_and_is_used_again(
    stores: Stores, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(block_file.os, "writev", refuse)
    monkeypatch.setattr(disk, "RETRY_S", 0.0)
    monkeypatch.setattr(writer, "LOOK_AGAIN_S", 0.01)
    store = stores(ram=4, disk=8)
    assert peer.put(store, range(4), SIZE) == ["stored"] * 4
    assert not store.flush(30)
    assert peer.found(store, range(4), SIZE) == [0, 1, 2, 3]
    peer.put(store, [4, 5], SIZE)
    stats = store.stats()
    assert not stats.disk_healthy and stats.write_errors and stats.lost_unwritten == 2
    monkeypatch.setattr(block_file.os, "writev", real)
    # What waited in RAM is written after all.
    wait_until(lambda: store.flush(1))
    assert store.stats().disk_healthy and store.stats().disk_blocks == 4
    store.close()
    hits = peer.found(stores(ram=8, disk=8), range(6), SIZE)
    assert len(hits) == 4 and hits[-2:] == [4, 5]


def test_a_block_that_the_disk_never_takes_holds_up_no_other(
    stores: Stores, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev

    def no_large_ones(descriptor: int, parts: list[memoryview]) -> int:
        if len(parts[-1]) > SIZE:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return real(descriptor, parts)

    monkeypatch.setattr(block_file.os, "writev", no_large_ones)
    monkeypatch.setattr(disk, "RETRY_S", 0.0)
    monkeypatch.setattr(writer, "LOOK_AGAIN_S", 0.01)
    store = stores(ram=8, disk=8)
    peer.put(store, [1], 2 * SIZE)
    peer.put(store, [2, 3], SIZE)
    wait_until(lambda: store.stats().disk_blocks == 2)
    assert store.stats().unwritten == 1


def test_a_folder_in_use_gives_no_store_and_no_thread(stores: Stores) -> None:
    stores(disk=8)
    before = threading.active_count()
    with pytest.raises(ConfigError, match="another process"):
        stores(disk=8)
    assert threading.active_count() == before


def test_siblings_are_looked_into(stores: Stores, peer: Peer) -> None:
    left, right = stores(disk=8, name="cache-0"), stores(disk=8, name="cache-1")
    peer.put(left, [1], SIZE)
    assert left.flush(30)
    assert peer.found(right, [1], SIZE) == []
    right.see_siblings([stores.folder / "cache-0"])
    assert peer.found(right, [1], SIZE) == [1] and right.stats().disk_hits == 1


def test_threads_that_want_one_block_read_it_once(
    stores: Stores, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores(ram=4, disk=8)
    peer.put(store, [1], SIZE)
    store.close()
    again = stores(ram=4, disk=8)
    real, begun, go_on = os.preadv, threading.Event(), threading.Event()

    def slow(*args: Any) -> int:
        begun.set()
        go_on.wait(30)
        return real(*args)

    monkeypatch.setattr(block_file.os, "preadv", slow)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(again.lookup, [key(1)], SPACE, NOW_S, f"h{k}") for k in range(4)]
        assert begun.wait(30)
        go_on.set()
        pieces = {call.result()[0] for call in calls}
    assert len(pieces) == 1 and None not in pieces
    assert again.stats().disk_hits == 1 and again.stats().ram_hits == 3

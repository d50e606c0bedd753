"""What a peer asks the cache, or reads of others, ends when one who was asked is gone or stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from silva.serving.peers import cached
from silva.serving.peers.cached import CacheClient
from silva.serving.wire.messages import Member
from silva.transfer import open_transfer
from silva.transfer.memory import MemoryNetwork, MemoryTransfer

BLOCK_BYTES = 64


class HereAndNow:
    """A ray whose calls are made by whoever asks for them."""

    def call(self, job: Any) -> None:
        job()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Member]:
    """A cache peer that takes everything and answers nothing."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    address = f"ipc://{tmp_path}/c"
    socket.bind(address)
    yield Member("cache-1", address)
    context.destroy(linger=0)


def test_blocks_come_back_when_the_peer_that_was_to_fetch_them_is_gone(
    silent: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "OFFER_S", 3600.0)
    monkeypatch.setattr(cached, "LOOKUP_S", 3600.0)
    transfer = open_transfer("shm", b"x" * 16)
    client = CacheClient(HereAndNow(), transfer, transfer.allocate(4 * BLOCK_BYTES), BLOCK_BYTES)  # type: ignore[arg-type]
    try:
        client.meet([silent])
        offered, found = threading.Event(), []
        client.offer("", {b"k" * 32: 1}, offered.set)
        client.look("", [b"k" * 32], found.append)
        client.settle()
        assert not offered.is_set() and not found
        client.meet([])
        assert offered.wait(30)
        client.settle()
        assert [findings.pieces for findings in found] == [{}]
    finally:
        client.close()
        transfer.close()


def test_an_owner_that_does_not_answer_holds_up_only_its_own_blocks(
    silent: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "LOOKUP_S", 0.1)
    network, again = MemoryNetwork(), threading.Event()
    reader = MemoryTransfer(network, timeout_s=3600.0, sleep=lambda _: bool(again.wait(60)))
    stopped, well = MemoryTransfer(network), MemoryTransfer(network)
    stopped.faults.delay_s = 1.0
    pieces = [owner.allocate(BLOCK_BYTES).piece(0, BLOCK_BYTES) for owner in (stopped, well)]
    client = CacheClient(HereAndNow(), reader, reader.allocate(4 * BLOCK_BYTES), BLOCK_BYTES)  # type: ignore[arg-type]
    try:
        client.meet([silent])
        targets = [memoryview(bytearray(BLOCK_BYTES)) for _ in range(5)]
        late: list[list[bool]] = []
        read, looked = threading.Event(), threading.Event()
        client.read(pieces, targets[:2], late.append)
        client.read(pieces[:1], targets[2:3], late.append)
        client.read(pieces[1:], targets[3:4], lambda right: read.set() if all(right) else None)
        client.look("", [b"k" * 32], lambda _: looked.set())
        assert read.wait(30) and looked.wait(30)
        assert not late
        again.set()
        client.settle()
        assert sorted(late, key=len) == [[True], [True, True]]
        client.read([], [], late.append)
        client.settle()
        assert late[-1] == []
    finally:
        again.set()
        client.close()

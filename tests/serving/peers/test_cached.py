"""What a peer asks the cache ends when the one who was asked is gone."""

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

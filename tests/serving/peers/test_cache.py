"""A cache peer, on a thread of this process, between one that was stopped and others."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import zmq

from silva.serving.config import KvConfig, ServeConfig
from silva.serving.peers.cache import CachePeer
from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import Found, Lookup, Message, Put, Status, decode, encode
from silva.transfer import Piece
from silva.transfer.base import TOKEN_BYTES, Region

SIZE = 64


def cache_peer(folder: Path) -> CachePeer:
    kv = KvConfig(cache_ram_bytes=1 << 20, cache_disk_bytes=0)
    config = ServeConfig(transfer="tcp", kv=kv)
    start = PeerStart("cache-1", "cache", "cache-1/x", folder, folder, config, b"x" * 32, 1, 0)
    return CachePeer(start)


def test_a_peer_that_is_stopped_while_it_is_read_delays_no_lookup(tmp_path: Path) -> None:
    peer = cache_peer(tmp_path)
    peer._transfer.timeout_s = 60.0
    thread = threading.Thread(target=peer.run)
    thread.start()
    context = zmq.Context()
    # whoever connects is let in by the system, and hears nothing
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        piece = Piece(Region("tcp", address, SIZE, b"t" * TOKEN_BYTES), 0, SIZE, 0)
        stopped, other = (context.socket(zmq.DEALER) for _ in range(2))
        for asker in (stopped, other):
            asker.connect(peer._address)
        for number in range(8):
            stopped.send(encode(Put(number, "", (bytes([number]) * 32,), (piece,))))
        other.send(encode(Lookup(1, "", (b"k" * 32,))))
        assert other.poll(30_000)
        assert decode(other.recv()) == Found(1, (None,))
        assert not stopped.poll(0)
    peer._stopping = True
    thread.join(60)
    context.destroy(linger=0)
    assert not thread.is_alive()


def test_blocks_are_counted_beside_and_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = cache_peer(tmp_path)
    counted_by: list[str] = []
    told = threading.Semaphore(0)

    def count() -> int:
        counted_by.append(threading.current_thread().name)
        time.sleep(0.5)  # as if there were millions
        return 7

    def send(message: Message) -> None:
        if isinstance(message, Status) and message.counters["objects"] == 7:
            told.release()

    monkeypatch.setattr(peer._store, "count", count)
    monkeypatch.setattr(peer._ray, "send", send)
    thread = threading.Thread(target=peer.run)
    thread.start()
    for _ in range(3):
        assert told.acquire(timeout=60)
    peer._stopping = True
    thread.join(60)
    assert not thread.is_alive()
    assert len(counted_by) == 1 and counted_by[0].startswith("lookup")

"""Blocks whose content follows from their key, peers that have them, and stores to put them in."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from silva.serving.cache import BlockStore, Kept, StoreConfig
from silva.transfer import Exposed, Piece
from silva.transfer.memory import MemoryNetwork, MemoryTransfer

SPACE = "tenant"
NOW_S = 100.0
SIZE = 4096
DISK_CHARGE = 1 << 14


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def content(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def wait_until(reached: Callable[[], bool]) -> None:
    """Sleep until something came about in another thread; AssertionError when it never does."""
    moment = threading.Event()
    for _ in range(3000):
        if reached():
            return
        moment.wait(0.01)
    raise AssertionError("it never came about")


class Peer:
    """Somebody who computed blocks and lets the store read them, and who reads from the store."""

    def __init__(self, network: MemoryNetwork | None = None) -> None:
        self.network = network or MemoryNetwork()
        self.transfer = MemoryTransfer(self.network)
        self.store_side = MemoryTransfer(self.network)

    def has(self, data: bytes) -> tuple[Exposed, Piece]:
        exposed = self.transfer.allocate(len(data))
        exposed.buffer[:] = data
        return exposed, exposed.piece(0, len(data))

    def put(
        self, store: BlockStore, numbers: Sequence[int], size: int, space: str = SPACE
    ) -> list[Kept]:
        return [
            store.put(key(n), space, self.has(content(n, size))[1], self.store_side, NOW_S)
            for n in numbers
        ]

    def read(self, piece: Piece) -> bytes:
        target = bytearray(piece.length)
        self.transfer.read(piece, target)
        return bytes(target)

    def found(
        self,
        store: BlockStore,
        numbers: Sequence[int],
        size: int,
        space: str = SPACE,
        now_s: float = NOW_S,
    ) -> list[int]:
        """Numbers of the blocks that the store has; what it gives must be right."""
        pieces = store.lookup([key(n) for n in numbers], space, now_s, "reader")
        hits = []
        for number, piece in zip(numbers, pieces, strict=True):
            if piece is not None:
                assert self.read(piece) == content(number, size)
                hits.append(number)
        store.release("reader", now_s)
        return hits


class Stores:
    """Stores of one test, all closed at its end."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self.peer, self.folder = peer, folder
        self._open: list[BlockStore] = []

    def __call__(
        self, ram: float = 8, disk: float = 0, name: str = "cache-0", **rest: Any
    ) -> BlockStore:
        config = StoreConfig(
            int(ram * SIZE), int(disk * DISK_CHARGE), self.folder / name if disk else None, **rest
        )
        store = BlockStore(config, self.peer.store_side)
        self._open.append(store)
        return store

    def close(self) -> None:
        for store in self._open:
            store.close()

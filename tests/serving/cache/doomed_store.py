"""A store that is killed while it writes.

    python doomed_store.py FOLDER FIRST

Puts blocks of many sizes from number FIRST on, without an end, and prints each number that is on
disk. A block's content follows from its number (`cache_blocks.content`, `size_of`).
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

from cache_blocks import Peer

from silva.serving.cache import BlockStore, StoreConfig


def size_of(number: int) -> int:
    return random.Random(-number - 1).choice([100, 5_000, 60_000, 200_000])


def open_store(folder: Path, peer: Peer) -> BlockStore:
    return BlockStore(StoreConfig(2 << 20, 8 << 20, folder), peer.store_side)


def main() -> None:
    peer = Peer()
    store = open_store(Path(sys.argv[1]), peer)
    for number in itertools.count(int(sys.argv[2])):
        peer.put(store, [number], size_of(number))
        if number % 8 == 0 and store.flush(60):
            print(number, flush=True)


if __name__ == "__main__":
    main()

"""The store over shared memory and TCP: the same as over the fake."""

from __future__ import annotations

from pathlib import Path

import pytest
from cache_blocks import NOW_S, SPACE, content, key, wait_until

from silva.serving.cache import BlockStore, StoreConfig
from silva.transfer import CorruptError, GoneError, open_transfer

SECRET = b"a secret that only tests know"
SIZE = 50_000


@pytest.mark.parametrize("kind", ["shm", "tcp"])
def test_blocks_go_in_and_out_and_survive(kind: str, tmp_path: Path) -> None:
    numbers = range(6)
    keys = [key(n) for n in numbers]
    config = StoreConfig(4 * 65_536, 1 << 20, tmp_path / "cache-0")
    with open_transfer(kind, SECRET) as peer, open_transfer(kind, SECRET) as side:
        pool = peer.allocate(6 * SIZE)
        for number in numbers:
            pool.buffer[number * SIZE : (number + 1) * SIZE] = content(number, SIZE)
        pieces = [pool.piece(number * SIZE, SIZE) for number in numbers]
        with BlockStore(config, side) as store:
            for start in (0, 3):
                batch = slice(start, start + 3)
                assert (
                    store.put_many(keys[batch], SPACE, pieces[batch], side, NOW_S) == ["stored"] * 3
                )
                assert store.flush(60)
        pool.close()
        with BlockStore(config, side) as again:
            for number in numbers:
                (piece,) = again.lookup([keys[number]], SPACE, NOW_S, "reader")
                assert piece
                target = bytearray(SIZE)
                peer.read(piece, target)
                assert target == content(number, SIZE)
                again.release("reader", NOW_S)
            # The first has left RAM for the last: what was handed out is recognised as over.
            (stale,) = again.lookup([keys[0]], SPACE, NOW_S, "late")
            assert stale
            for number in range(1, 6):
                again.lookup([keys[number]], SPACE, NOW_S + 60, "others")
                again.release("others", NOW_S + 60)
            with pytest.raises(CorruptError):
                peer.read(stale, bytearray(SIZE))
        with pytest.raises(GoneError):
            peer.read(stale, bytearray(SIZE))
        if kind == "shm":
            # The reader lets go of the closed store's memory by itself.
            wait_until(lambda: peer.mapped == 0)  # type: ignore[attr-defined]  # shm has it

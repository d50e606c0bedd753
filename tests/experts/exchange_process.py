"""One rank as a process: `exchange_process.py RANK RANKS STORE`, messages on stdin and stdout.

Says where its memory is, hears where that of all ranks is, and does what the conformance test asks
of both exchanges. Rank 0 never dies; the last rank does, when it is told to.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from exchange_cases import (
    EXPERTS,
    LAYER,
    expected,
    experts_of,
    placement,
    sizes_of,
    tokens_of,
)

from silva.experts.collective import CollectiveExchange
from silva.experts.exchange import SharedExchange
from silva.experts.memory import Member, OwnMemory


def main(rank: int, ranks: int, store: str) -> None:
    torch.set_num_threads(1)
    slots = 2 * EXPERTS // ranks
    sizes, table = sizes_of(ranks, slots), placement(ranks, slots)
    memory = OwnMemory(rank, sizes.total)
    print(msgspec.json.encode(memory.member).decode(), flush=True)
    members = msgspec.json.decode(sys.stdin.readline(), type=list[Member])
    shared = SharedExchange(
        sizes, memory, members, {LAYER: experts_of(table, rank)}, {LAYER: table}, total=EXPERTS
    )
    dist.init_process_group("gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks)
    assert dist.group.WORLD is not None
    twin = CollectiveExchange(
        dist.group.WORLD, {LAYER: experts_of(table, rank)}, {LAYER: table}, total=EXPERTS
    )
    for turn in range(6):
        given = tokens_of(rank, (3 * rank + 5 * turn) % 11, turn)
        for exchange in (shared, twin):
            torch.testing.assert_close(exchange(LAYER, *given), expected(*given))
        shared.begin_step()
    print("agreed", flush=True)
    sys.stdin.readline()
    if rank == ranks - 1:
        os.kill(os.getpid(), 9)
    given = tokens_of(rank, 4)
    for _ in range(2):
        shared.begin_step()
        found = shared(LAYER, *given)
    torch.testing.assert_close(found[~shared.incomplete], expected(*given)[~shared.incomplete])
    lost = not set(range(EXPERTS)) <= {int(e) for e in table[: ranks - 1].ravel()}
    assert lost or not shared.incomplete.any()
    print(sorted(shared.dead), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

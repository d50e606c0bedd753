"""A cache peer: keeps blocks by the digest of their content, and lets prefill peers read them.

It answers at a socket of its own, so that lookups do not pass through the front. Work that may wait
for a disk or for another peer's memory is done by threads, lookups and fetches by different ones; the
peer's own thread only speaks.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from silva.serving.cache import BlockStore, StoreConfig
from silva.serving.peers.lanes import Lanes
from silva.serving.peers.start import PeerStart
from silva.serving.quotas import parse_quotas
from silva.serving.wire.messages import (
    AnyMessage,
    Forget,
    Found,
    Hello,
    Kept,
    Lookup,
    Members,
    Message,
    Put,
    Status,
    Stop,
)
from silva.serving.wire.messages import Load as PeerLoad
from silva.serving.wire.star import Ray, address
from silva.transfer import Transfer, open_transfer

log = logging.getLogger("silva.cache")

_FOLDER = re.compile(r"cache-\d{1,4}")

STATUS_S = 0.5
COUNTING = 0.01
"""Share of the time that blocks are counted in: all in RAM are looked at, which may be very many."""
LOOKUP_THREADS = 2
FETCH_THREADS = 4
"""Each peer that offers blocks has at most one of them at a time: it may have been stopped."""


class CachePeer:
    """See the module."""

    def __init__(self, start: PeerStart) -> None:
        self._start = start
        kv = start.config.kv
        self._transfer: Transfer = open_transfer(start.config.transfer, start.token)
        folder = Path(kv.cache_folder) / start.name if kv.cache_disk_bytes else None
        self._store = BlockStore(
            StoreConfig(
                ram_bytes=kv.cache_ram_bytes,
                disk_bytes=kv.cache_disk_bytes,
                folder=folder,
                namespace_share=kv.namespace_share,
                quotas=parse_quotas(kv.quotas),
            ),
            self._transfer,
        )
        # The identity is new for every process: a question to a former one is not taken for ours.
        self._address = address(start.folder, start.identity.replace("/", "-"))
        self._ray = Ray(address(start.folder, "hub"), start.identity, serves=self._address)
        self._lookups = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
        self._fetches = Lanes(FETCH_THREADS, "fetch")
        self._stopping = False
        self._objects, self._count_at_s = 0, 0.0

    def run(self) -> None:
        """Answer until told to stop."""
        self._ray.send(Hello(self._start.name, "cache", os.getpid(), self._address))
        told_s = 0.0
        while not self._stopping:
            for asker, message in self._ray.receive(STATUS_S):
                self._take(asker, message)
            now = time.monotonic()
            if now - told_s >= STATUS_S:
                told_s = now
                self._store.expire(now)
                self._ray.send(Status(PeerLoad(), self._counters()))
            if now >= self._count_at_s:
                self._count_at_s = math.inf  # until it is done
                self._lookups.submit(self._count)
        self._lookups.shutdown(cancel_futures=True)
        self._fetches.close()
        self._store.close()
        self._transfer.close()
        self._ray.close()

    def _take(self, asker: bytes | None, message: AnyMessage) -> None:
        match message:
            case Lookup() if asker is not None:
                found = partial(self._found, asker, message)
                self._lookups.submit(self._answer, asker, found)
            case Put() if asker is not None:
                kept = partial(self._kept, message)
                self._fetches.run(asker, partial(self._answer, asker, kept))
            case Forget() if asker is not None:
                self._store.release(_holder(asker, message.number), time.monotonic())
            case Members() if asker is None:
                self._meet(message)
            case Stop() if asker is None:
                self._stopping = True
            case _:
                log.error("a message that is not for a cache peer: %s", type(message).__name__)

    def _answer(self, asker: bytes, work: Callable[[], Message]) -> None:
        """Do `work` and send what it returns; on a thread."""
        try:
            answer = work()
        except Exception:
            # No answer: the one who asked gives up by himself and computes.
            log.exception("a question failed")
            return
        self._ray.call(lambda: self._ray.answer(asker, answer))

    def _found(self, asker: bytes, question: Lookup) -> Message:
        holder = _holder(asker, question.number)
        pieces = self._store.lookup(
            question.keys, question.namespace, time.monotonic(), holder=holder
        )
        here = len(pieces) - pieces.count(None)
        log.info("%s: %d of %d blocks are here", question.request, here, len(pieces))
        return Found(question.number, tuple(pieces))

    def _kept(self, offer: Put) -> Message:
        self._store.put_many(
            offer.keys, offer.namespace, offer.pieces, self._transfer, time.monotonic()
        )
        return Kept(offer.number)

    def _meet(self, members: Members) -> None:
        """Blocks on the disks of the others can be read here too: they may have had our keys.

        So can those of peers that have left: their disk tier is still there.
        """
        folder = Path(self._start.config.kv.cache_folder)
        if self._start.config.kv.cache_folder and self._start.config.kv.cache_disk_bytes:
            found = {m.name for m in members.caches} | _kept_folders(folder)
            self._store.see_siblings(folder / n for n in sorted(found - {self._start.name}))

    def _count(self) -> None:
        """On a thread, rarely: this peer may hold a million blocks."""
        start_s = time.monotonic()
        self._objects = self._store.count()
        end_s = time.monotonic()
        self._count_at_s = end_s + max(STATUS_S, (end_s - start_s) / COUNTING)

    def _counters(self) -> dict[str, float]:
        stats, kv = self._store.stats(), self._start.config.kv
        return {
            "objects": self._objects,
            "ram_bytes": stats.ram_bytes,
            "ram_limit_bytes": kv.cache_ram_bytes,
            "disk_bytes": stats.disk_bytes,
            "disk_limit_bytes": kv.cache_disk_bytes,
            "hits": stats.ram_hits + stats.disk_hits,
            "misses": stats.misses,
            "corrupt": stats.corrupt + stats.healed,
            "write_errors": stats.write_errors,
        }


def _kept_folders(folder: Path) -> set[str]:
    """Names of the folders in `folder` that are those of cache peers, present or not."""
    try:
        return {p.name for p in folder.iterdir() if _FOLDER.fullmatch(p.name) and p.is_dir()}
    except OSError:
        return set()


def _holder(asker: bytes, number: int) -> str:
    return f"{asker.hex()}/{number}"

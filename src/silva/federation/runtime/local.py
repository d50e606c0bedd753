"""All clients in this process, on one model, one in each thread of a pool."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silva.data.nouns import ClientRows, ImageDataset, Partition
from silva.data.styles import apply_style
from silva.federation.client import Update, Work, train_client
from silva.federation.config import LocalConfig
from silva.federation.features import ClientData
from silva.federation.runtime.base import Clients
from silva.federation.task import Task
from silva.models.backbone import Backbone

CACHE_BYTES = 512 * 2**20
"""Decoded images kept in memory, all clients together; the least recently used go first."""


class ClientImages:
    """`Clients` over one data set: decodes on demand and keeps the most recent in memory.

    Any thread may ask.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        partition: Partition,
        backbone: Backbone,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._dataset, self._backbone, self._budget = dataset, backbone, cache_bytes
        self._rows: Mapping[str, ClientRows] = {c.name: c for c in partition.clients}
        self._cache: OrderedDict[tuple[str, str], NDArray[np.uint8]] = OrderedDict()
        self._held = 0
        self._lock = Lock()

    def train(self, name: str) -> ClientData:
        """Training images of client `name`."""
        return self._load(name, "train")

    def test(self, name: str) -> ClientData:
        """Test images of client `name`."""
        return self._load(name, "test")

    def _load(self, name: str, part: str) -> ClientData:
        client = self._rows[name]
        rows = client.train if part == "train" else client.test
        with self._lock:
            images = self._recent(name, part, rows, client.style)
        labels = torch.from_numpy(self._dataset.labels[rows].astype(np.int64))
        return ClientData(self._backbone.pixels(images), labels)

    def _recent(
        self, name: str, part: str, rows: NDArray[np.int64], style: str
    ) -> NDArray[np.uint8]:
        """Decoded images, from memory or anew; they become the most recently used."""
        images = self._cache.pop((name, part), None)
        if images is None:
            images = self._dataset.source.load(rows, self._backbone.side)
            images = apply_style(images, style, rows)
            self._held += images.nbytes
        self._cache[name, part] = images
        while self._held > self._budget and len(self._cache) > 1:
            self._held -= self._cache.popitem(last=False)[1].nbytes
        return images


class LocalRuntime:
    """`Runtime` in this process: clients side by side in `pool`, or in turn without one."""

    def __init__(
        self,
        task: Task[Any],
        clients: Clients[Any],
        local: LocalConfig,
        pool: Executor | None = None,
    ) -> None:
        self._task, self._clients, self._local = task, clients, local
        self._pool = pool

    def train(self, works: Iterable[Work]) -> Iterator[Update]:
        """Train every client; updates come in the order of `works`.

        A single piece of work is done in the caller's thread, which may be one of the pool's.
        """
        works = list(works)
        if self._pool is None or len(works) == 1:
            yield from map(self._train, works)
        else:
            yield from self._pool.map(self._train, works)

    def _train(self, work: Work) -> Update:
        data = self._clients.train(work.client)
        return train_client(self._task, data, work, self._local)

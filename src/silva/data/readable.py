"""Whether the images that a run will need can be read, asked before the run begins.

A damaged image that turns up in the third hour of a run is a nuisance; reading all of them once
takes a small part of what training on them takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from silva.data.nouns import ClientRows, ImageSource
from silva.data.sources import ArraySource

_CHUNK = 64
_SIDE = 32
"""Images are decoded whole but kept small."""


def check_images(
    source: ImageSource,
    clients: Iterable[ClientRows],
    after: Callable[[int, int], None] = lambda read, total: None,
) -> None:
    """Decode every image of the clients once; DataError names the first that cannot be.

    Images that lie decoded in an array are fine as they are. `after` hears how many of how many have
    been read.
    """
    if isinstance(source, ArraySource):
        return
    rows = np.unique(np.concatenate([part for c in clients for part in (c.train, c.test)]))
    chunks, read = _chunks(rows), 0
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for part, _ in zip(chunks, pool.map(lambda part: _read(source, part), chunks), strict=True):
            read += len(part)
            after(read, len(rows))
    finally:
        pool.shutdown(cancel_futures=True)


def _read(source: ImageSource, rows: NDArray[np.int64]) -> None:
    source.load(rows, _SIDE)


def _chunks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]

"""Several streams as one, each item with the number of the stream that it is from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_READ_AHEAD = 16
"""Items kept for a reader that is slow; beyond it the streams wait."""


async def merged(
    streams: Sequence[AsyncGenerator[Item, None]],
) -> AsyncGenerator[tuple[int, Item], None]:
    """Items as they come. The first error ends all streams; so does closing this one."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, Item] | Exception | None] = asyncio.Queue(_READ_AHEAD)
    pumps = [asyncio.ensure_future(_pump(i, stream, queue)) for i, stream in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            entry = await queue.get()
            if isinstance(entry, Exception):
                raise entry
            if entry is None:
                running -= 1
            else:
                yield entry
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    index: int,
    stream: AsyncGenerator[Item, None],
    queue: asyncio.Queue[tuple[int, Item] | Exception | None],
) -> None:
    """Everything of one stream into the queue, then None, or the error that ended it."""
    try:
        async with contextlib.aclosing(stream):
            async for item in stream:
                await queue.put((index, item))
        await queue.put(None)
    except Exception as error:  # whatever it is, the reader has to hear of it
        await queue.put(error)

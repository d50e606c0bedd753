"""Where in one run of bytes there is room: first fit, neighbours joined."""

from __future__ import annotations

from bisect import bisect_left

ALIGNMENT = 64
"""Every place starts at a multiple of so many bytes: a cache line, and any number's alignment."""


def rounded(size_bytes: int) -> int:
    """The bytes that a place for `size_bytes` takes."""
    return max(-(-size_bytes // ALIGNMENT), 1) * ALIGNMENT


class Arena:
    """Places in `capacity_bytes` bytes. It holds no memory, only what is free.

    Blocks of one model have one size: then the first gap will do, and nothing is fragmented. Blocks
    of several models may lie beside each other; then a place may be missing though enough bytes are
    free, and the caller frees more.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes // ALIGNMENT * ALIGNMENT
        self._starts: list[int] = [0] if self.capacity_bytes else []
        self._sizes: dict[int, int] = {0: self.capacity_bytes} if self.capacity_bytes else {}

    @property
    def free_bytes(self) -> int:
        """Bytes that are free, in however many pieces."""
        return sum(self._sizes.values())

    def take(self, size_bytes: int) -> int | None:
        """Offset of a place of `rounded(size_bytes)` bytes; None when no gap is so large."""
        need = rounded(size_bytes)
        for index, start in enumerate(self._starts):
            size = self._sizes[start]
            if size >= need:
                del self._sizes[start]
                if size == need:
                    del self._starts[index]
                else:
                    self._starts[index] = start + need
                    self._sizes[start + need] = size - need
                return start
        return None

    def give_back(self, offset: int, size_bytes: int) -> None:
        """Free a place that `take` gave for the same size. ValueError when some of it is free."""
        size = rounded(size_bytes)
        index = bisect_left(self._starts, offset)
        before = self._starts[index - 1] if index else None
        after = self._starts[index] if index < len(self._starts) else None
        if (
            offset % ALIGNMENT
            or not 0 <= offset <= self.capacity_bytes - size
            or (before is not None and before + self._sizes[before] > offset)
            or (after is not None and offset + size > after)
        ):
            raise ValueError(f"{offset} + {size} is not a place that was taken")
        if after == offset + size:
            size += self._sizes.pop(self._starts.pop(index))
        if before is not None and before + self._sizes[before] == offset:
            self._sizes[before] += size
        else:
            self._starts.insert(index, offset)
            self._sizes[offset] = size

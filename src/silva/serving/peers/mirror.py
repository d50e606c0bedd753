"""Which blocks of the peer that leads lie, just as they are there, with those that follow it.

Peers that share a pass write the same to the same blocks. What somebody lacks is what was written
without it: passes that it had no part in, and blocks that the leader read from the cache.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Mirror:
    """See the module. Who follows is known by a number of its process."""

    def __init__(self) -> None:
        self._has: dict[int, set[int]] = {}

    def meet(self, present: Collection[int]) -> None:
        """These follow from now on; a new one has nothing, and others are forgotten."""
        self._has = {who: self._has.get(who, set()) for who in present}

    def lacks(self, who: int, blocks: Iterable[int]) -> list[int]:
        """Those of `blocks` that one who follows has to read first."""
        has = self._has[who]
        return [block for block in blocks if block not in has]

    def written(self, blocks: Collection[int], by: Collection[int] = ()) -> None:
        """The leader has new values in these; who wrote the same goes on having what it had."""
        for who, has in self._has.items():
            if who not in by:
                has.difference_update(blocks)

    def learned(self, who: Iterable[int], blocks: Collection[int]) -> None:
        """These blocks are the same there as with the leader."""
        for one in who:
            self._has[one].update(blocks)

"""Where the requests of a runner stand, in arrays that change only where a plan says so.

A request that computes has a *slot*: a row of the block tables, and of the sampler's parameters. Of
these, the ones that decode are listed in `rows`, in no particular order. A step reads the arrays as
they are; its cost in Python is that of the requests that came or went.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Batch:
    """Block tables, and the next token and position of everybody who decodes."""

    def __init__(self, slots: int = 16, width: int = 16) -> None:
        """Room to begin with; it doubles when needed."""
        self.table = np.full((slots, width), -1, np.int32)
        """[slots, width] blocks of each slot in order; what is beyond its last one means nothing."""
        self.tokens = np.zeros(slots, np.int64)
        """[slots] the last token of those that decode, whose KV is not computed yet."""
        self.positions = np.zeros(slots, np.int64)
        """[slots] the position of that token."""
        self.drafts = np.full(slots, -1, np.int64)
        """[slots] a guess of the token after it, -1 for none."""
        self.limits = np.zeros(slots, np.int64)
        """[slots] the length at which the request ends."""
        self._held = np.zeros(slots, np.int64)
        self._free = list(range(slots - 1, -1, -1))
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        self._row_of: dict[str, int] = {}
        self._rows = np.zeros(slots, np.int64)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Slots of those that decode; a view, valid until the next change."""
        return self._rows[: len(self._names)]

    @property
    def names(self) -> Sequence[str]:
        """The requests that decode, in the order of `rows`; not to be changed."""
        return self._names

    def slot(self, request: str) -> int | None:
        """The slot of a request that has one."""
        return self._slots.get(request)

    def blocks_held(self, request: str) -> int:
        """Length of a request's block table."""
        slot = self._slots.get(request)
        return 0 if slot is None else int(self._held[slot])

    def enter(self, request: str) -> int:
        """Give a request a slot with an empty table. KeyError if it has one."""
        if request in self._slots:
            raise KeyError(request)
        if not self._free:
            self._more_slots()
        slot = self._slots[request] = self._free.pop()
        self._held[slot] = 0
        return slot

    def append(self, request: str, blocks: Sequence[int]) -> None:
        """Append blocks to the table of a request that has a slot."""
        slot = self._slots[request]
        start, stop = self._held[slot], self._held[slot] + len(blocks)
        while stop > self.table.shape[1]:
            self.table = np.concatenate([self.table, np.full_like(self.table, -1)], axis=1)
        self.table[slot, start:stop] = blocks
        self._held[slot] = stop

    def join(
        self, request: str, token: int, position: int, *, limit: int = 0, draft: int = -1
    ) -> None:
        """A request with a slot decodes from now on, this token first."""
        slot = self._slots[request]
        if request in self._row_of:
            raise KeyError(request)
        self.tokens[slot], self.positions[slot] = token, position
        self.drafts[slot], self.limits[slot] = draft, limit
        row = self._row_of[request] = len(self._names)
        self._names.append(request)
        self._rows[row] = slot

    def forget(self, request: str) -> int | None:
        """Take a request's slot, and its row if it decodes; the slot, or None if it had none."""
        slot = self._slots.pop(request, None)
        if slot is None:
            return None
        row = self._row_of.pop(request, None)
        last = self._names[-1] if self._names else ""
        if row is not None:
            # The last row moves into the gap.
            self._rows[row] = self._rows[len(self._names) - 1]
            self._names[row] = last
            self._names.pop()
            if last != request:
                self._row_of[last] = row
        self._free.append(slot)
        return slot

    def _more_slots(self) -> None:
        before = len(self.tokens)
        self._free.extend(range(2 * before - 1, before - 1, -1))
        self.table = np.concatenate([self.table, np.full_like(self.table, -1)])
        for name in ("tokens", "positions", "drafts", "limits", "_held", "_rows"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))

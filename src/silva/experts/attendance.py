"""Who is out of a group of ranks, and since when: what its log tells of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

log = logging.getLogger("silva.experts")


class Attendance:
    """Told of the dead with every vote, whatever it is for: so none comes and goes without a line."""

    def __init__(self, dead: Collection[int]) -> None:
        """`dead`: the ranks that are out already."""
        now_s = time.monotonic()
        self._out = dict.fromkeys(dead, now_s)
        self._complete_s = now_s

    def note(self, dead: Collection[int]) -> None:
        """Write to the log who is out, or in again, since the last time."""
        now_s, known = time.monotonic(), self._out.keys()
        if out := sorted(set(dead) - known):
            ago_s = now_s - self._complete_s
            log.warning("ranks %s are out; the last vote with them was %.3f s ago", out, ago_s)
        if back := sorted(known - set(dead)):
            out_s = now_s - min(self._out[rank] for rank in back)
            log.warning("ranks %s are in again after %.3f s", back, out_s)
        self._out = {rank: self._out.get(rank, now_s) for rank in dead}
        self._complete_s = now_s

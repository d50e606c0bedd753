"""Waiting for other ranks, asleep, and telling those that died from those that are slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from silva.errors import ServingError
from silva.experts.flags import Flags

LOOK_S = 0.05
"""How often a rank that waits looks whether the others are still alive."""
PATIENCE_S = 10.0
"""After so long without its flag a rank counts as dead, whatever its process does."""


def await_all(
    flags: Flags,
    words: Mapping[int, int],
    number: int,
    *,
    alive: Callable[[int], bool],
    patience_s: float,
    check: Callable[[Sequence[int]], None],
) -> set[int]:
    """Sleep until the words of all ranks, given by address, are `number`; the ranks that died first.

    `check` is given those that are late, now and then: the ServingError that it raises ends the
    waiting, unless some of these words have come meanwhile.
    """
    late, dead, gone = list(words), set[int](), set[int]()
    deadline_s = time.monotonic() + patience_s
    while late:
        places = flags.missing([words[rank] for rank in late], number, 0.0 if gone else LOOK_S)
        late = [late[place] for place in places]
        # Only now that the words were looked at again: what a rank wrote before it died counts.
        dead |= gone & set(late)
        late = [rank for rank in late if rank not in dead]
        try:
            if late:
                check(late)
        except ServingError:
            # What a rank wrote before it went on counts, too.
            places = flags.missing([words[rank] for rank in late], number, 0.0)
            if len(places) == len(late):
                raise
            late = [late[place] for place in places]
        tired = time.monotonic() > deadline_s
        gone = {rank for rank in late if tired or not alive(rank)}
    return dead

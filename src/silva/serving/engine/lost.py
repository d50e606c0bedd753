"""Requests whose part of a step was not computed: their blocks must never be found by others."""

from __future__ import annotations

from collections.abc import Iterable

from silva.control import holdings, scheduler
from silva.control.state import State


def lose(state: State, requests: Iterable[str]) -> None:
    """Cancel requests of the step in flight, without entering what the step made under its keys.

    Called before `update`, which enters the blocks of all chunks: those of these hold no KV, or none
    that means anything. Whoever waits for one of them computes it itself.
    """
    for request in requests:
        entry, chunk = state.entries.get(request), state.flight.get(request)
        if entry is None:
            continue
        if chunk is not None:
            size = state.settings.block_tokens
            for key in entry.keys[chunk.start // size : chunk.stop // size]:
                holdings.wake(state, state.index.withdraw(key, request))
            entry.keys = ()
        scheduler.cancel(state, request)

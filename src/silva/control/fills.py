"""Blocks from cache peers: a request looks for what its own pool lacks, without holding up others.

    for request, keys in lookups(state): ...      # ask the owners of the keys, see ring.py
    for key, block in fill(state, request, found): ...   # read into this block
    filled(state, request, keys)                  # these were read and verified
    give_up(state, request)                       # no more will come: the rest is computed

Every lookup ends with `fill` of nothing, with all its keys `filled`, or with `give_up`. Answers that
come too late are harmless: a key stands for its content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from silva.control import holdings
from silva.control.entry import Entry, Stage
from silva.control.state import State


def look(state: State, entry: Entry) -> None:
    """An admitted request starts its lookup: others wait for these keys instead of asking too."""
    request, keys = entry.request.id, []
    for place in range(len(entry.blocks), holdings.reusable_blocks(state, entry)):
        key = entry.keys[place]
        if state.index.find(key) is not None or state.index.maker(key) is not None:
            break
        state.index.begin(key, request)
        keys.append(key)
    entry.sought = dict.fromkeys(keys)
    entry.stage = Stage.LOOKING
    state.lookups[request] = tuple(keys)
    state.refile(entry)


def lookups(state: State) -> tuple[tuple[str, tuple[bytes, ...]], ...]:
    """Lookups that began since the last call: requests, and keys in order from the first missing.

    Only a leading run of them is of use: a block without those before it cannot be read.
    """
    begun = tuple(each for each in state.lookups.items() if _looks(state, each[0]))
    state.lookups.clear()
    return begun


def fill(state: State, request: str, found: Collection[bytes]) -> tuple[tuple[bytes, int], ...]:
    """The cache peers have `found`: keys to read, and the blocks to read them into.

    Empty when there is nothing to read, or the request no longer looks; then nothing follows. The
    blocks stay the request's own, even when it is cancelled, until `filled` or `give_up`.
    """
    entry = state.entries.get(request)
    if entry is None or entry.stage is not Stage.LOOKING:
        return ()
    holdings.share_hits(state, entry, holdings.reusable_blocks(state, entry))
    run: list[bytes] = []
    for place in range(len(entry.blocks), holdings.reusable_blocks(state, entry)):
        key = entry.keys[place]
        if key not in entry.sought or key not in found or len(run) == state.pool.free:
            break
        run.append(key)
    start = len(entry.blocks)
    if not run or not holdings.take(state, entry, len(run)):
        _resume(state, entry)
        return ()
    entry.stage = Stage.FILLING
    entry.filling = {key: start + number for number, key in enumerate(run)}
    absent = [key for key in entry.sought if key not in entry.filling]
    holdings.withdraw(state, entry, absent, looked=True)
    state.refile(entry)
    return tuple(zip(run, entry.blocks[start:], strict=True))


def filled(state: State, request: str, keys: Iterable[bytes]) -> None:
    """These keys' blocks were read and verified, in any order and in any number of calls.

    Raises ValueError for a key that is not being read.
    """
    entry = state.entries.get(request)
    for key in keys:
        if entry is None or key not in entry.filling:
            raise ValueError(f"{request} does not read key {key.hex()[:16]}")
        entry.sought.pop(key, None)
        holdings.complete(state, entry, (entry.filling.pop(key),), request)
    if entry is not None and entry.stage is Stage.FILLING and not entry.filling:
        _end_filling(state, entry)


def give_up(state: State, request: str) -> None:
    """No more of what the request looks for will come: nothing writes into its blocks any more."""
    entry = state.entries.get(request)
    if entry is None:
        return
    if entry.stage is Stage.LOOKING:
        _resume(state, entry)
    elif entry.stage is Stage.FILLING:
        missing = min(entry.filling.values())
        state.pool.release(reversed(entry.blocks[missing:]))
        del entry.blocks[missing:]
        entry.filling.clear()
        _end_filling(state, entry)


def _end_filling(state: State, entry: Entry) -> None:
    if entry.cancelled:
        holdings.remove(state, entry)
        return
    read = len(entry.blocks) * state.settings.block_tokens
    if not entry.preemptions:
        entry.cached += read - entry.computed
    entry.computed = read
    state.promise(entry)
    _resume(state, entry)


def _resume(state: State, entry: Entry) -> None:
    """The lookup is over: the request computes what is still missing."""
    holdings.withdraw(state, entry, list(entry.sought), looked=True)
    entry.looked = True
    holdings.enqueue(state, entry)


def _looks(state: State, request: str) -> bool:
    entry = state.entries.get(request)
    return entry is not None and entry.stage is Stage.LOOKING

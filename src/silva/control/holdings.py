"""Blocks of requests: taking, sharing, indexing, giving back, and who must yield to whom.

Requests are ordered by (priority, arrival). One that is running takes blocks from any that comes
after it; one that waits takes them from running ones of lower priority only, so that a late arrival
is not thrown out of the batch for one that came a little earlier. The first of all always finds
blocks in the end, so that everything ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from silva.control.entry import Entry, Filed, Stage
from silva.control.request import StoredBlock
from silva.control.state import State

_DECODING = Stage.DECODING
"""A name of its own, as in `silva.control.state`."""


def take(state: State, entry: Entry, count: int) -> bool:
    """Append `count` blocks to a request's table; False, and nothing done, if too few are free.

    The caller refiles the request.
    """
    if not count:
        return True
    given = state.pool.allocate(count)
    if given is None:
        return False
    blocks, evicted = given
    for block in evicted:
        state.index.evict(block)
    entry.blocks += blocks
    if entry.promised:
        state.promise(entry)
    return True


def grow(state: State, entry: Entry) -> None:
    """Give a decoding request its next block, which is free, and note when it needs another."""
    needs = state.blocks_to_grow(entry)
    if not take(state, entry, needs):
        raise AssertionError("room was made for this block")
    state.refile_grown(entry, needs)
    state.note_growth(entry)


def share_hits(state: State, entry: Entry, most_blocks: int) -> None:
    """Append blocks that already hold what comes next, as long as there are any.

    At most up to `most_blocks` in the table. Blocks that are being computed are no hits: a request
    never reads what is not complete.
    """
    size = state.settings.block_tokens
    most = min(most_blocks, len(entry.keys))
    before = len(entry.blocks)
    while entry.computed == len(entry.blocks) * size and len(entry.blocks) < most:
        block = state.index.find(entry.keys[len(entry.blocks)])
        if block is None:
            break
        state.pool.share(block)
        entry.blocks.append(block)
        entry.computed += size
    hits = len(entry.blocks) - before
    if hits:
        if not entry.preemptions:
            entry.cached += hits * size
        if entry.admitted:
            state.promise(entry)
        state.refile(entry)


def reusable_blocks(state: State, entry: Entry) -> int:
    """Blocks that may be hits: all full ones but that of the last token, whose logits are needed."""
    return min(len(entry.keys), (entry.length - 1) // state.settings.block_tokens)


def next_key(state: State, entry: Entry) -> bytes | None:
    """The key of the block that the request would compute next, if a hit could spare it that."""
    at_edge = entry.computed == len(entry.blocks) * state.settings.block_tokens
    if not at_edge or len(entry.blocks) >= reusable_blocks(state, entry):
        return None
    return entry.keys[len(entry.blocks)]


def complete(state: State, entry: Entry, blocks: Iterable[int], maker: str) -> list[StoredBlock]:
    """Enter blocks of the table, by their place in it, under their keys; wakes who waited.

    Returns those that were not found before.
    """
    entered = []
    for place in blocks:
        key, block = entry.keys[place], entry.blocks[place]
        woken, new = state.index.complete(key, block, maker)
        if new:
            state.pool.keep(block)
            entered.append(StoredBlock(key, block, entry.request.namespace))
        wake(state, woken)
    return entered


def drop(state: State, entry: Entry) -> None:
    """Give all blocks of a request back, the last one first: prefixes are kept the longest."""
    if entry.blocks:
        state.pool.release(reversed(entry.blocks))
        entry.blocks.clear()
    entry.computed = 0
    if entry.filed is not Filed.SAFE or entry.promised:
        state.refile(entry)
    if entry.told:
        state.left[entry.id] = None
        entry.told = 0
    state.stuck = False


def park(state: State, entry: Entry, key: bytes) -> None:
    """Let a request wait until the key is made, or is not made any more."""
    state.index.wait(key, entry.request.id)
    entry.waits_for = key
    entry.stage = Stage.PARKED
    state.refile(entry)


def wake(state: State, requests: Iterable[str], *, looked: bool = False) -> None:
    """Put requests back into their queues; `looked`: what they waited for is not in the caches."""
    for request in requests:
        entry = state.entries[request]
        entry.waits_for = None
        entry.looked = entry.looked or looked
        enqueue(state, entry)


def enqueue(state: State, entry: Entry) -> None:
    """Put a request into the queue of those that compute, or of those that wait to be admitted."""
    if entry.admitted:
        entry.stage = Stage.STARTED
        state.started.push(entry.id, entry.order)
    else:
        entry.stage = Stage.WAITING
        state.waiting.push(entry.id, entry.order)
    if entry.blocks or entry.promised or entry.filed is not Filed.SAFE:
        state.refile(entry)
    state.stuck = False


def withdraw(state: State, entry: Entry, keys: Sequence[bytes], *, looked: bool) -> None:
    """A request makes these keys no longer, which it looked for; `looked`: they were not found, so
    that those who wait need not look for them either.
    """
    for key in keys:
        entry.sought.pop(key, None)
        wake(state, state.index.withdraw(key, entry.request.id), looked=looked)


def leave_queues(state: State, entry: Entry) -> None:
    """Take a request out of wherever it waits, and let nobody wait for it."""
    if entry.stage is _DECODING:
        return
    request = entry.id
    state.waiting.remove(request)
    state.started.remove(request)
    state.joining.pop(request, None)
    if entry.waits_for is not None:
        state.index.unwait(entry.waits_for, request)
        entry.waits_for = None
    if entry.sought:
        withdraw(state, entry, list(entry.sought), looked=False)


def remove(state: State, entry: Entry) -> None:
    """A request is over: its blocks go back and nothing remembers it."""
    leave_queues(state, entry)
    state.dismiss(entry)
    drop(state, entry)
    del state.entries[entry.id]


def preempt(state: State, entry: Entry) -> None:
    """Take a request's blocks; it waits in its old place in the queue and computes them again."""
    leave_queues(state, entry)
    state.dismiss(entry)
    if entry.told:
        entry.preemptions += 1
        state.preempted[entry.request.id] = None
    elif not entry.preemptions:
        entry.cached = 0
    drop(state, entry)
    entry.looked = False
    enqueue(state, entry)


def room_to_grow(state: State, entry: Entry, count: int) -> bool:
    """Have `count` blocks free for a running request, preempting those that come after it.

    False when there are fewer: then whatever comes after it has yielded.
    """
    while state.pool.free < count:
        victim = _last(state, Filed.RUNNING, Filed.IDLE)
        if victim is None or victim.order <= entry.order:
            return False
        preempt(state, victim)
    return True


def room_to_start(state: State, entry: Entry) -> bool:
    """Have the blocks free without which a waiting request is not admitted (`_blocks_to_start`).

    Hits of waiting requests that come after it yield; running ones yield if their priority is
    lower and that is enough; where nothing runs, whatever holds blocks yields.
    """
    while state.pool.free < _blocks_to_start(state, entry):
        victim = _last(state, Filed.IDLE)
        if victim is None or victim.order <= entry.order:
            break
        preempt(state, victim)
    else:
        return True
    priority = entry.request.priority
    lower = sum(blocks for p, blocks in state.running_blocks.items() if p > priority)
    worthwhile = state.pool.free + lower >= _blocks_to_start(state, entry)
    while state.pool.free < _blocks_to_start(state, entry):
        victim = _last(state, Filed.RUNNING, Filed.PROMISED)
        if victim is None or victim.order <= entry.order:
            return False
        if state.running and not (worthwhile and victim.request.priority > priority):
            return False
        preempt(state, victim)
    return True


def _blocks_to_start(state: State, entry: Entry) -> int:
    """Blocks for all known tokens of a request, beside those promised to others, and one for each
    request that runs, or it would soon be preempted for one of them to grow.
    """
    needs = state.blocks_to_grow(entry)
    return needs + state.promised + state.decoding + state.starting


def _last(state: State, *kinds: Filed) -> Entry | None:
    """The least urgent request whose blocks are filed as one of these."""
    names = [state.holders[kind].first() for kind in kinds]
    entries = [state.entries[name] for name in names if name is not None]
    return max(entries, key=lambda entry: entry.order, default=None)

"""KV that changes peers: reserved on the decode peer before it comes, held on the prefill peer.

Decode peer:

    given = reserve(state, request, keys, step_time)     # None: no room, refuse it
    ... read blocks given.ready, given.ready + 1, ... of the prefill peer's table ...
    commit(state, request.id)       # all were verified: it joins the batch at the next step
    abandon(state, request.id)      # or they will not come, and nobody writes into them any more

Prefill peer: a request added with `hand_over` is in `Update.handed` once it has its first token; its
blocks stay until `release`, which is called when the decode peer has read them or its lease is due:

    for request in update(state, result).handed:
        lease = leases.grant(decode_peer, request, now_s, ttl_s)   # tell where blocks_of(request) lie
    for due in leases.expire(now_s):
        release(state, due.resource)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silva.control import holdings
from silva.control.entry import Entry, Filed, Stage
from silva.control.request import Request
from silva.control.slo import StepTime
from silva.control.state import State
from silva.control.step import has_room


@dataclass(frozen=True)
class Reservation:
    """Blocks for the KV of all tokens that a request has before its first one is sampled."""

    blocks: tuple[int, ...]
    ready: int
    """The first so many of them hold their KV already and need not be read."""


def reserve(
    state: State, request: Request, keys: Sequence[bytes], step_time: StepTime
) -> Reservation | None:
    """Blocks for a request that a prefill peer computes, up to and with its first token.

    None when there is no room now, in blocks, in the batch or under the TPOT target: the request is
    not remembered. Raises ValueError like `scheduler.add`, also for a request that ends with its
    first token: the prefill peer needs no other for it.
    """
    entry = new_entry(state, request, keys, tokens=1)
    if not has_room(state, entry, step_time, coming=True):
        return None
    known = entry.length - 1
    state.entries[request.id] = entry
    holdings.share_hits(state, entry, known // state.settings.block_tokens)
    entry.ready = len(entry.blocks)
    needs = state.settings.blocks_for(known) - entry.ready
    # As for an admitted one: every request that runs or comes may still grow by a block.
    spare = state.promised + state.decoding + state.starting + state.coming
    entry.stage = Stage.RESERVED
    if state.pool.free < needs + spare or not holdings.take(state, entry, needs):
        holdings.remove(state, entry)
        return None
    state.come(entry)
    if entry.filed is not Filed.SAFE:
        state.refile(entry)
    return Reservation(tuple(entry.blocks), entry.ready)


def commit(state: State, request: str) -> bool:
    """The KV of a reservation is complete and verified; it decodes as soon as there is room.

    False when it was cancelled or is not known any more: then it is forgotten, and what comes late
    is refused.
    """
    entry = state.entries.get(request)
    if entry is None or entry.stage is not Stage.RESERVED:
        return False
    if entry.cancelled:
        holdings.remove(state, entry)
        return False
    entry.computed = entry.length - 1
    entry.sampled = True
    full = min(entry.computed // state.settings.block_tokens, len(entry.keys))
    holdings.complete(state, entry, range(entry.ready, full), request)
    holdings.enqueue(state, entry)
    return True


def abandon(state: State, request: str) -> bool:
    """Give a reservation's blocks back; False when there is none."""
    return _give_back(state, request, Stage.RESERVED)


def release(state: State, request: str) -> bool:
    """Give the blocks of a handed-over request back; False when it is not held (any more)."""
    return _give_back(state, request, Stage.HELD)


def new_entry(
    state: State,
    request: Request,
    keys: Sequence[bytes],
    *,
    hand_over: bool = False,
    lookup: bool = False,
    tokens: int = 0,
) -> Entry:
    """The entry of a request that has been given `tokens` more than it says itself.

    Raises ValueError for an id in use, no prompt, a prompt over the context, nothing left to say,
    or more keys than full blocks.
    """
    settings = state.settings
    length = len(request.prompt) + len(request.emitted) + tokens
    limit = request.limit(settings.context_tokens)
    if request.id in state.entries:
        raise ValueError(f"request {request.id} is here already")
    if not request.prompt:
        raise ValueError(f"request {request.id} has no prompt")
    if length >= limit:
        raise ValueError(f"request {request.id} has {length} tokens and may have {limit}")
    if len(keys) > length // settings.block_tokens:
        raise ValueError(f"request {request.id} has {len(keys)} keys for {length} tokens")
    order = state.new_order(request)
    return Entry(request, request.id, order, keys, length, limit, [], {}, {}, hand_over, lookup)


def _give_back(state: State, request: str, stage: Stage) -> bool:
    entry = state.entries.get(request)
    if entry is None or entry.stage is not stage:
        return False
    holdings.remove(state, entry)
    return True

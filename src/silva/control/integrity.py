"""Counts everything anew and compares: for tests, and for an engine that has nothing else to do."""

from __future__ import annotations

from collections import Counter

from silva.control.entry import Entry, Filed, Stage
from silva.control.state import State

_OUTSIDE = (Stage.FILLING, Stage.RESERVED, Stage.HELD)


def check(state: State) -> None:
    """AssertionError where the counts of a state do not fit what it holds. O(requests + blocks)."""
    state.pool.check()
    _check_blocks(state)
    _check_counts(state)
    _check_queues(state)
    for entry in state.entries.values():
        _check_entry(state, entry)


def _check_blocks(state: State) -> None:
    held = Counter(block for entry in state.entries.values() for block in entry.blocks)
    held.update(state.pins)
    for block in range(state.pool.total):
        assert state.pool.holders(block) == held[block], f"block {block} is held by nobody known"
    for key in state.index:
        found = state.index.find(key)
        assert found is not None and state.index.key_of(found) == key


def _check_counts(state: State) -> None:
    entries = list(state.entries.values())
    decoding = [entry for entry in entries if entry.stage is Stage.DECODING]
    starting = [e for e in entries if e.admitted and e.stage is not Stage.DECODING]
    own = [entry for entry in starting if not entry.hand_over]
    coming = [entry for entry in entries if entry.coming]
    assert state.running == len(decoding) + len(starting)
    assert state.decoding == len(decoding)
    assert state.starting == len(own)
    assert state.starting_tokens == sum(entry.length for entry in own)
    assert state.promised == sum(entry.promised for entry in starting)
    assert state.coming == len(coming)
    assert state.coming_tokens == sum(entry.length for entry in coming)
    assert state.held == sum(entry.stage is Stage.HELD for entry in entries)
    assert state.context_tokens == sum(state.length_of(entry) for entry in decoding)
    assert state.running <= state.settings.max_running


def _check_queues(state: State) -> None:
    for entry in state.entries.values():
        request, stage = entry.request.id, entry.stage
        flying = request in state.flight
        assert (request in state.waiting) == (stage is Stage.WAITING)
        assert (request in state.started) == (stage is Stage.STARTED and not flying)
        assert (request in state.joining) == (stage is Stage.JOINING)
        assert (state.ends.step_of(request) is not None) == (stage is Stage.DECODING)
        for kind, queue in state.holders.items():
            assert (request in queue) == (kind is entry.filed is not Filed.SAFE)
    members = len(state.waiting) + len(state.started) + len(state.joining) + len(state.flight)
    stages = Counter(entry.stage for entry in state.entries.values())
    assert members == stages[Stage.WAITING] + stages[Stage.STARTED] + stages[Stage.JOINING]
    running: Counter[int] = Counter()
    for entry in state.entries.values():
        if entry.filed in (Filed.RUNNING, Filed.PROMISED):
            running[entry.request.priority] += len(entry.blocks) + entry.promised
    assert running == state.running_blocks


def _check_entry(state: State, entry: Entry) -> None:
    settings, size = state.settings, state.settings.block_tokens
    taken = entry.filed in (Filed.RUNNING, Filed.PROMISED)
    assert entry.filed_blocks == taken * (len(entry.blocks) + entry.promised)
    touched = entry.request.id in state.flight or entry.stage in _OUTSIDE
    assert not (touched and entry.filed is not Filed.SAFE), "blocks in use may be taken"
    assert touched or not entry.blocks or entry.filed is not Filed.SAFE
    assert len(set(entry.blocks)) == len(entry.blocks)
    assert entry.length <= entry.limit <= settings.context_tokens
    assert state.length_of(entry) <= entry.limit
    if entry.stage is Stage.DECODING:
        known = state.length_of(entry)
        covered = len(entry.blocks) * size
        # A block for the positions of the next step is due in that step at the latest.
        assert known - 1 <= covered <= known - 1 + settings.drafts + size
        grows = state.growth.step_of(entry.request.id)
        assert state.blocks_to_grow(entry) <= 0 or grows == state.step
    elif entry.stage in (Stage.WAITING, Stage.PARKED, Stage.STARTED, Stage.LOOKING):
        if entry.request.id not in state.flight:
            assert len(entry.blocks) == settings.blocks_for(entry.computed)
        assert entry.computed < entry.length
    if entry.waits_for is not None:
        assert entry.stage is Stage.PARKED and state.index.maker(entry.waits_for) is not None
    for key in entry.sought:
        assert state.index.maker(key) == entry.request.id

"""Builds the plan of one step: who joins, who grows, whose prompt is computed, who is admitted.

First those that decode: they come before everything, as they have streams waiting on them. What
they leave of the step's tokens goes to prompts, in order of urgency: requests that are admitted go
on, and requests that wait are admitted as long as there is room. The first that finds no room
closes admission for this step, so that nobody behind it can keep it out for ever.
"""

from __future__ import annotations

from silva.control import fills, holdings
from silva.control.entry import Entry, Filed, Stage
from silva.control.request import Chunk, Plan
from silva.control.slo import StepTime, largest_chunk
from silva.control.state import State

_DECODING = Stage.DECODING
"""A name of its own, as in `silva.control.state`."""


def has_room(state: State, entry: Entry, step_time: StepTime, *, coming: bool = False) -> bool:
    """Whether one request more may run: a place in the batch, and the TPOT target still held.

    `coming`: count requests whose KV is on the way, too. One request alone is always let in, or a
    target that the machine cannot hold would stop it.
    """
    others = state.coming if coming else 0
    if state.running + others >= state.settings.max_running:
        return False
    most_s = state.settings.step_s
    batch = state.decoding + state.starting + others
    if most_s is None or entry.hand_over or not batch:
        return True
    tokens = state.context_tokens + state.starting_tokens + entry.length
    if coming:
        tokens += state.coming_tokens
    return step_time.seconds(batch + 1, tokens, 0) <= most_s


def only_decoding(state: State) -> Plan:
    """The plan of a step in which nobody joins, grows, waits or computes a prompt."""
    state.stuck = True
    left, preempted = _gone(state)
    return Plan(state.step, (), left, preempted, (), (), state.decoding, state.decoding)


def _gone(state: State) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who left and who of them was preempted since the last plan, which this one tells."""
    if not state.left and not state.preempted:
        return (), ()
    gone = tuple(state.left), tuple(state.preempted)
    state.left.clear()
    state.preempted.clear()
    return gone


class StepBuilder:
    """One step in the making. `build` is called once; the state is changed as it goes."""

    def __init__(self, state: State, now_s: float, step_time: StepTime) -> None:
        self.state, self.now_s, self.step_time = state, now_s, step_time
        self.changed: dict[str, Entry] = {}
        self.used = 0
        self.parked = 0
        self._computing = self._admitting = True
        self._cap: tuple[int, int] | None = None

    def build(self) -> Plan:
        """The plan; the state is then that of a step in flight if the plan has any tokens."""
        state = self.state
        if state.joining or state.growth.next == state.step:
            self._join_and_grow()
        state.stuck = not self._serve()
        joined, news = self._news()
        left, preempted = _gone(state)
        chunks, decoding = tuple(state.flight.values()), state.decoding
        return Plan(
            state.step, joined, left, preempted, chunks, news, decoding, decoding + self.used
        )

    def _news(self) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]:
        """Who decodes from this step on; and blocks that the runner does not know yet, of the
        requests that this step computes.
        """
        joined, news, flight, step = [], [], self.state.flight, self.state.step
        for request, entry in self.changed.items():
            decodes = entry.stage is _DECODING
            if decodes and entry.joined_step == step:
                joined.append(request)
            told, held = entry.told, len(entry.blocks)
            if told < held and (decodes or request in flight):
                news.append((request, tuple(entry.blocks[told:])))
                entry.told = held
        return tuple(joined), tuple(news)

    def _join_and_grow(self) -> None:
        state = self.state
        for request in state.joining:
            entry = state.entries[request]
            state.join(entry)
            self.changed[request] = entry
        state.joining.clear()
        for request in state.growth.pop(state.step):
            entry = state.entries[request]
            if entry.stage is not _DECODING:
                continue  # preempted for another one a moment ago
            if holdings.room_to_grow(state, entry, state.blocks_to_grow(entry)):
                holdings.grow(state, entry)
                self.changed[request] = entry
            else:
                holdings.preempt(state, entry)

    def _serve(self) -> bool:
        """Serve requests that do not decode, the most urgent first; whether any could be."""
        state, served = self.state, False
        entries, started, waiting = state.entries, state.started, state.waiting
        while True:
            first = started.first() if self._computing and started.members else None
            new = waiting.first() if self._admitting and waiting.members else None
            if new is not None and (first is None or waiting.members[new] < started.members[first]):
                self._admitting = self._start(entries[new])
                served = served or self._admitting
            elif first is not None:
                self._computing = self._compute(entries[first])
                served = served or self._computing
            else:
                return served

    def _start(self, entry: Entry) -> bool:
        """Admit a waiting request, or let it wait for a block in the making; False: no room."""
        state = self.state
        key = self._share(entry) if entry.keys else None
        if key is not None and state.index.maker(key) is not None:
            if state.running + self.parked >= state.settings.max_running:
                return False  # it could not run in the next step either
            state.waiting.remove(entry.id)
            self._park(entry, key)
            return True
        joins = entry.sampled and entry.length - entry.computed == 1
        looks = entry.lookup and not entry.looked and key is not None
        if joins:
            each = 1 + state.settings.drafts
            fits = (state.decoding + 1) * each + self.used <= state.settings.step_tokens
            if not (self._computing and fits):
                return False
        elif not looks and not (self._computing and self._budget() > 0):
            return False
        if not has_room(state, entry, self.step_time):
            return False
        if not holdings.room_to_start(state, entry):
            return False
        state.waiting.remove(entry.id)
        state.admit(entry)
        if joins:
            self._join(entry)
        elif looks:
            fills.look(state, entry)
        else:
            # It was the most urgent of all, unless the room made for it has woken another one.
            entry.stage = Stage.STARTED
            if (state.waiting.members or state.started.members) and not self._is_first(entry):
                holdings.enqueue(state, entry)
                return True
            self._computing = self._compute(entry)
            if not self._computing:
                holdings.enqueue(state, entry)
        return True

    def _is_first(self, entry: Entry) -> bool:
        """Whether nobody in the queues is more urgent."""
        state = self.state
        for name in (state.waiting.first(), state.started.first()):
            if name is not None and state.entries[name].order < entry.order:
                return False
        return True

    def _join(self, entry: Entry) -> None:
        """A request that lacks the KV of its last token only decodes from this step on."""
        state = self.state
        needs = state.blocks_to_grow(entry)
        if needs and not holdings.take(state, entry, needs):
            raise AssertionError("room was made for these blocks")
        self._stamp(entry)
        state.join(entry)
        self.changed[entry.id] = entry

    def _compute(self, entry: Entry) -> bool:
        """Give an admitted request its next chunk; False: no tokens or no blocks are left."""
        state, size = self.state, self.state.settings.block_tokens
        key = self._share(entry) if entry.keys else None
        if key is not None and state.index.maker(key) is not None:
            state.started.remove(entry.id)
            self._park(entry, key)
            return True
        computed, count = entry.computed, self._budget()
        gap = entry.length - computed
        if count > gap:
            count = gap
        if count <= 0:
            return False
        needs = -(-(computed + count) // size) - len(entry.blocks)
        if needs > state.pool.free and not holdings.room_to_grow(state, entry, needs):
            count = (len(entry.blocks) + state.pool.free) * size - computed
            if count <= 0:
                return False
        stop = computed + count
        if count < gap and stop - stop % size > computed:
            stop -= stop % size  # whole blocks can be shared
        needs = -(-stop // size) - len(entry.blocks)
        if needs > 0 and not holdings.take(state, entry, needs):
            raise AssertionError("room was made for these blocks")
        state.started.remove(entry.id)
        self._fly(entry, stop)
        return True

    def _fly(self, entry: Entry, stop: int) -> None:
        """Positions up to `stop` are computed in this step, and their blocks made."""
        state, request, start = self.state, entry.id, entry.computed
        if entry.keys:
            size = state.settings.block_tokens
            for place in range(start // size, min(stop // size, len(entry.keys))):
                key = entry.keys[place]
                if state.index.find(key) is None and state.index.maker(key) is None:
                    state.index.begin(key, request)
        state.flight[request] = Chunk(request, start, stop, stop == entry.length)
        self.used += stop - start
        self.changed[request] = entry
        self._stamp(entry)
        if entry.filed is not Filed.SAFE:
            state.refile(entry)

    def _share(self, entry: Entry) -> bytes | None:
        """Take all hits there are; the key of the block that it would have to compute next."""
        most = holdings.reusable_blocks(self.state, entry)
        holdings.share_hits(self.state, entry, most)
        return holdings.next_key(self.state, entry)

    def _park(self, entry: Entry, key: bytes) -> None:
        self.parked += 1
        holdings.park(self.state, entry, key)

    def _stamp(self, entry: Entry) -> None:
        if entry.started_s is None:
            entry.started_s = self.now_s

    def _budget(self) -> int:
        """Positions of prompts that the step can still take."""
        settings, decoding = self.state.settings, self.state.decoding
        if self._cap is None or self._cap[0] != decoding:
            most = settings.step_tokens - decoding * (1 + settings.drafts)
            if settings.step_s is not None and decoding:
                context = self.state.context_tokens
                most = largest_chunk(self.step_time, settings.step_s, decoding, context, most)
            self._cap = (decoding, most)
        return self._cap[1] - self.used

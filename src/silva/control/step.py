"""Builds the plan of one step: who joins, who grows, whose prompt is computed, who is admitted.

First those that decode: they come before everything, as they have streams waiting on them. What
they leave of the step's tokens goes to prompts, in order of urgency: requests that are admitted go
on, and requests that wait are admitted as long as there is room. The first that finds no room
closes admission for this step, so that nobody behind it can keep it out for ever.
"""

from __future__ import annotations

from silva.control import fills, holdings
from silva.control.request import Chunk, Plan
from silva.control.slo import StepTime, largest_chunk
from silva.control.state import Entry, Stage, State


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
    plan = Plan(
        step=state.step,
        left=tuple(state.left),
        preempted=tuple(state.preempted),
        decoding=state.decoding,
        tokens=state.decoding,
    )
    state.stuck = True
    state.left.clear()
    state.preempted.clear()
    return plan


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
        self._join_and_grow()
        state.stuck = not self._serve()
        news = self._news()
        decoding = [e for e in self.changed.values() if e.stage is Stage.DECODING]
        plan = Plan(
            step=state.step,
            joined=tuple(e.request.id for e in decoding if e.joined_step == state.step),
            left=tuple(state.left),
            preempted=tuple(state.preempted),
            chunks=tuple(state.flight.values()),
            blocks=news,
            decoding=state.decoding,
            tokens=state.decoding + self.used,
        )
        state.left.clear()
        state.preempted.clear()
        return plan

    def _news(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Blocks that the runner does not know yet, of the requests that this step computes."""
        news = []
        for request, entry in self.changed.items():
            runs = entry.stage is Stage.DECODING or request in self.state.flight
            if runs and entry.told < len(entry.blocks):
                news.append((request, tuple(entry.blocks[entry.told :])))
                entry.told = len(entry.blocks)
        return tuple(news)

    def _join_and_grow(self) -> None:
        state = self.state
        for request in state.joining:
            entry = state.entries[request]
            state.join(entry)
            self.changed[request] = entry
        state.joining.clear()
        for request in state.growth.pop(state.step):
            entry = state.entries[request]
            if entry.stage is not Stage.DECODING:
                continue  # preempted for another one a moment ago
            if holdings.room_to_grow(state, entry, state.blocks_to_grow(entry)):
                holdings.grow(state, entry)
                self.changed[request] = entry
            else:
                holdings.preempt(state, entry)

    def _serve(self) -> bool:
        """Serve requests that do not decode, the most urgent first; whether any could be."""
        state, served = self.state, False
        while True:
            running = state.started.first() if self._computing else None
            waiting = state.waiting.first() if self._admitting else None
            first = None if running is None else state.entries[running]
            new = None if waiting is None else state.entries[waiting]
            if new is not None and (first is None or new.order < first.order):
                self._admitting = self._start(new)
                served = served or self._admitting
            elif first is not None:
                self._computing = self._compute(first)
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
            state.waiting.remove(entry.request.id)
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
        state.waiting.remove(entry.request.id)
        state.admit(entry)
        if joins:
            self._join(entry)
        elif looks:
            fills.look(state, entry)
        else:
            # It was the most urgent of all, unless the room made for it has woken another one.
            entry.stage = Stage.STARTED
            if not self._is_first(entry):
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
        self.changed[entry.request.id] = entry

    def _compute(self, entry: Entry) -> bool:
        """Give an admitted request its next chunk; False: no tokens or no blocks are left."""
        state, size = self.state, self.state.settings.block_tokens
        key = self._share(entry) if entry.keys else None
        if key is not None and state.index.maker(key) is not None:
            state.started.remove(entry.request.id)
            self._park(entry, key)
            return True
        gap = entry.length - entry.computed
        count = min(gap, self._budget())
        if count <= 0:
            return False
        needs = -(-(entry.computed + count) // size) - len(entry.blocks)
        if needs > 0 and not holdings.room_to_grow(state, entry, needs):
            count = (len(entry.blocks) + state.pool.free) * size - entry.computed
            if count <= 0:
                return False
        stop = entry.computed + count
        if count < gap and stop - stop % size > entry.computed:
            stop -= stop % size  # whole blocks can be shared
        needs = max(0, -(-stop // size) - len(entry.blocks))
        if not holdings.take(state, entry, needs):
            raise AssertionError("room was made for these blocks")
        state.started.remove(entry.request.id)
        self._fly(entry, stop)
        return True

    def _fly(self, entry: Entry, stop: int) -> None:
        """Positions up to `stop` are computed in this step, and their blocks made."""
        state, size = self.state, self.state.settings.block_tokens
        request = entry.request.id
        if entry.keys:
            for place in range(entry.computed // size, min(stop // size, len(entry.keys))):
                key = entry.keys[place]
                if state.index.find(key) is None and state.index.maker(key) is None:
                    state.index.begin(key, request)
        state.flight[request] = Chunk(request, entry.computed, stop, stop == entry.length)
        self.used += stop - entry.computed
        self.changed[request] = entry
        self._stamp(entry)
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

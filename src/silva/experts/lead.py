"""What the rank that leads decides: which experts move where, and who is let in.

Any rank may come to lead, when those before it have died. It goes on from what the last votes said.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silva.control.placement import Placement, place
from silva.control.placement_load import LoadWindow
from silva.control.placement_table import Floats
from silva.errors import ServingError
from silva.experts.meeting import Card

if TYPE_CHECKING:
    from silva.experts.group import RankGroup

LOOK_S = 0.5
"""How often it looks for a process in the place of a dead rank."""
WINDOW = 2
"""Rebalancings whose time the window of the load spans."""
TOLERANCE = 0.05
"""A placement is left alone while its most loaded rank carries no more than this above the rule."""


class Decision(NamedTuple):
    """What the rank that leads adds to its vote: see `Vote`."""

    seen: int
    apply: int = 0
    admit: int = 0
    member: int = 0


class Lead:
    """Of one rank; used only while that rank leads."""

    def __init__(self, group: RankGroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._group, self._clock = group, clock
        self._queue: deque[tuple[int, NDArray[np.int64]]] = deque()
        """Layers and their tables, to be proposed one after the other."""
        self._own = 0
        """The last proposal that it made itself."""
        self._planned_for: frozenset[int] | None = None
        """The dead that it has last found new places without."""
        self._last = 0
        """The vote that it led last."""
        shape = group.shape.board
        span_s = WINDOW * (group.shape.rebalance_s or 1.0)
        self._window = LoadWindow(shape.layers, shape.experts, span_s)
        self._reported = np.zeros((shape.layers, shape.experts), np.uint32)
        self._look_s = self._balance_s = clock()
        self._work: Thread | None = None
        self._found: Placement | None = None

    def decide(self) -> Decision:
        """For the vote to come."""
        group, now_s = self._group, self._clock()
        if group.number != self._last + 1:
            # Another has led meanwhile: what was meant then is void.
            self._queue.clear()
            self._planned_for = self._found = None
        self._last = group.number
        if group.enough():
            self._plan(now_s)
        nothing = Decision(group.seen)
        if self._outstanding():
            if self._all_ready(group.seen):
                return Decision(group.seen, apply=group.seen)
            if not self._abandoned():
                return nothing
        card = self._newcomer(now_s)
        if card is not None:
            try:
                group.welcome(card)
            except ServingError:
                # It has died meanwhile; a card that stays must not keep others out.
                group.cards[card.rank] = card.checksum
                return nothing
            return Decision(group.seen, admit=card.rank + 1, member=card.checksum)
        if not self._queue:
            return nothing
        self._own = max([group.seen, *(vote.seen for vote in group.votes.values())]) + 1
        group.propose(self._own, *self._queue.popleft())
        return Decision(self._own)

    def has_news(self) -> bool:
        """Whether a vote should be held although nobody has tokens."""
        group = self._group
        if self._outstanding():
            if self._all_ready(group.seen):
                return True
            if not self._abandoned():
                return False
            if any(vote.seen != group.seen for vote in group.votes.values()):
                return True  # who does not know of it learns of it with a vote
        if self._queue or (group.enough() and (self._found is not None or self._must_plan())):
            return True
        now_s = self._clock()
        if now_s - self._look_s < LOOK_S:
            return False
        return self._card() is not None

    def rebalance(self, placement: Placement) -> None:
        """Let the experts move to another placement, layer by layer."""
        self._found = placement

    def _must_plan(self) -> bool:
        """Whether places are given to the dead, or none to a rank alive, and nothing is done yet."""
        dead, tables = sorted(self._group.exchange.dead), self._group.tables
        if frozenset(dead) == self._planned_for:
            return False
        empty = (tables[:, self._group.alive()] < 0).all(axis=(0, 2))
        return bool((tables[:, dead] >= 0).any() or empty.any())

    def _outstanding(self) -> bool:
        return self._group.seen > self._group.applied

    def _all_ready(self, number: int) -> bool:
        votes = self._group.votes
        return bool(votes) and all(
            votes[r].ready >= number for r in self._group.alive() if r in votes
        )

    def _abandoned(self) -> bool:
        """Whether another rank, which does not lead any more, made the last proposal."""
        return self._group.seen != self._own

    def _plan(self, now_s: float) -> None:
        """Fill the queue: what was lost first, then what a rebalancing asks for."""
        group = self._group
        dead = frozenset(group.exchange.dead)
        differ = len({vote.placement for vote in group.votes.values()}) > 1
        if differ and not self._queue and not self._outstanding():
            self._queue = deque(enumerate(group.tables.copy()))
            return
        if self._must_plan() or (group.lost() and not self._queue and not self._outstanding()):
            self._planned_for, self._found = dead, None
            self._put(self._placed(*self._known(), dead))
            return
        self._hear(now_s)
        if self._found is not None:
            found, self._found = self._found, None
            self._put(found)

    def _put(self, after: Placement) -> None:
        tables = self._group.tables
        moved = [n for n in range(len(tables)) if (after.slots[n] != tables[n]).any()]
        held = [set(tables[n][self._group.alive()].ravel().tolist()) for n in range(len(tables))]
        experts = set(range(self._group.shape.experts))
        # Layers without which no pass can begin come first.
        moved.sort(key=lambda n: experts <= held[n])
        self._queue = deque((n, after.slots[n]) for n in moved)

    def _known(self) -> tuple[Floats, Placement]:
        """The load [layers, experts], and where experts are."""
        group = self._group
        before = Placement(group.tables.copy(), group.shape.experts)
        return self._window.load(self._clock()), before

    def _placed(self, load: Floats, before: Placement, dead: frozenset[int]) -> Placement:
        sizes = self._group.shape.buffers
        return place(
            load if load.any() else np.ones_like(load),
            sizes.ranks,
            sizes.slots,
            previous=before,
            dead=dead,
            tolerance=TOLERANCE,
        )

    def _hear(self, now_s: float) -> None:
        """Take in what ranks reported; look at the balance when it is time, beside the passes."""
        every_s = self._group.shape.rebalance_s
        if not every_s or not self._group.reported:
            return
        sent = self._group.sent().sum(axis=0, dtype=np.uint32)
        # A rank that joined anew counts from zero: what goes back is no load.
        more = (sent - self._reported).astype(np.int32)
        if more.any():
            self._window.add(np.maximum(more, 0).astype(np.int64), now_s)
            self._reported = sent
        busy = self._queue or self._outstanding() or self._work is not None
        if busy or now_s - self._balance_s < every_s:
            return
        self._balance_s, dead = now_s, frozenset(self._group.exchange.dead)
        load, before = self._known()

        def balance() -> None:
            try:
                found = self._placed(load, before, dead)
                if found.moved and dead == self._group.exchange.dead:
                    self._found = found
            finally:
                self._work = None
                self._group.news()

        # No daemon: in compiled code when the interpreter goes it would abort the process.
        self._work = Thread(target=balance, name="placement", daemon=False)
        self._work.start()

    def _newcomer(self, now_s: float) -> Card | None:
        if now_s - self._look_s < LOOK_S:
            return None
        self._look_s = now_s
        return self._card()

    def _card(self) -> Card | None:
        """The card of a process that stands in the place of a dead rank, if one does.

        Not while the process lives that had the place: stopped in mid-round, it would go on writing
        where the other one writes.
        """
        group = self._group
        for rank in sorted(group.exchange.dead):
            card = None if group.lingers(rank) else group.meeting.card(rank)
            if card is not None and card.checksum != group.cards.get(rank):
                return card
        return None

"""How a rank gets into its group: with all others at the beginning, or let in by them later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from silva.control.placement import place
from silva.errors import ConfigError, ServingError
from silva.experts.board import MOST_RANKS, Board
from silva.experts.group import RankGroup
from silva.experts.meeting import Card, Meeting
from silva.experts.memory import Member, OwnMemory, PeerMemory
from silva.experts.shape import GroupShape, Place
from silva.experts.waiting import PATIENCE_S
from silva.models.deepseek_loader import Shelf

LOOK_S = 0.02
"""How often a rank that has no group yet looks at the others' cards."""
FORM_S = 600.0
"""How long it does. The others may have a large model to read before they show theirs."""


def room_for(experts: int, ranks: int, redundant: int) -> int:
    """Experts that each rank has room for: its share and `redundant` more, all experts at most.

    Never so few that the ranks that are left could not hold all of them when one has died.
    """
    if ranks == 1:
        return experts
    return min(experts, max(experts // ranks + redundant, -(-experts // (ranks - 1))))


def check_ranks(experts: int, ranks: int) -> None:
    """Raise ConfigError unless so many experts can be spread evenly over so many ranks."""
    if ranks == 1:
        return
    if not experts:
        what, remedy = "this model has no experts to spread over ranks", "use one rank"
    elif ranks > experts:
        what = f"{ranks} ranks for {experts} experts"
        remedy = f"use at most {min(experts, MOST_RANKS)}"
    elif experts % ranks or ranks > MOST_RANKS:
        what = f"{experts} experts do not divide among {ranks} ranks"
        able = [n for n in range(1, min(experts, MOST_RANKS) + 1) if experts % n == 0]
        remedy = f"there may be {', '.join(map(str, able))}"
    else:
        return
    raise ConfigError(what, where="Spread.ranks", remedy=remedy)


def form(
    shape: GroupShape,
    rank: int,
    meeting: Meeting,
    shelf: Shelf,
    *,
    trade: Member | None = None,
    address: str = "",
    news: Callable[[], None] = lambda: None,
    patience_s: float = PATIENCE_S,
    limit_s: float = FORM_S,
) -> RankGroup:
    """The group that `rank` belongs to, once it is complete, or once it has let this rank in.

    `trade`: the memory of its trade, where it shares steps with others; `address`: see `Card`.

    Raises ServingError where the memory for it cannot be had, or that is not so within `limit_s`.
    """
    buffers = OwnMemory(rank, shape.memory)
    board = OwnMemory(rank, shape.board.size)
    card, own = Card(buffers.member, board.member, trade, address), Board(board, shape.board)
    meeting.show(card)
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        found = {**meeting.cards(), rank: card}
        welcome = own.welcome()
        if welcome is not None:
            number, known = welcome
            tables = own.tables.astype(np.int64)
            given = Place(buffers, board, found, tables, number - 1, known)
            return RankGroup(shape, given, meeting, shelf, news=news, patience_s=patience_s)
        party = meeting.party(found)
        if party and all(other.party == party for other in found.values()):
            given = Place(buffers, board, found, first_tables(shape))
            try:
                return RankGroup(shape, given, meeting, shelf, news=news, patience_s=patience_s)
            except ServingError:
                party = 0  # one has died meanwhile; another will stand in its place
        if party != card.party:
            card = replace(card, party=party)
            meeting.show(card)
        time.sleep(LOOK_S)
    missing = [n for n in range(shape.buffers.ranks) if not _present(meeting.card(n))]
    why = f"ranks {missing} are missing" if missing else "the others have not let it in"
    raise ServingError(f"after {limit_s:g} s rank {rank} has no group: {why}")


def _present(card: Card | None) -> bool:
    """Whether this is the card of a process that has not ended."""
    if card is None:
        return False
    try:
        return PeerMemory(card.board).alive()
    except ServingError:
        return False


def first_tables(shape: GroupShape) -> np.ndarray:
    """Where experts are at first [layers, ranks, slots]: evenly, no load is known yet."""
    sizes = shape.buffers
    even = np.ones((len(shape.numbers), shape.experts))
    return place(even, sizes.ranks, sizes.slots).slots

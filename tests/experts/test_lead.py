"""What the rank that leads decides, in a group of which only it is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from silva.errors import ServingError
from silva.experts.board import Vote
from silva.experts.lead import LOOK_S, Lead
from silva.experts.meeting import Card
from silva.experts.memory import Member
from silva.experts.shape import GroupShape, Pass
from silva.experts.sizes import BufferSizes

SIZES = BufferSizes(ranks=4, local_batch=4, top_k=2, slots=2, hidden_size=8, item_bytes=4)
SHAPE = GroupShape(SIZES, {Pass.HIDDEN: (0,)}, experts=6, rebalance_s=0.0)
TABLES = np.array([[[0, 1], [2, 3], [4, 5], [0, 1]]])


def card(rank: int, pid: int) -> Card:
    member = Member(rank, pid, 3, 4096, bytes(16))
    return Card(member, member)


@dataclass
class Group:
    """As `Lead` knows a RankGroup: rank 0, others that died, and cards of processes."""

    dead: set[int]
    shown: dict[int, Card] = field(default_factory=dict)
    """Cards in the folder."""
    living: set[int] = field(default_factory=set)
    """Ranks that are dead and whose processes have not ended."""
    refused: set[int] = field(default_factory=set)
    """Ranks whose memory cannot be had."""
    number: int = 0
    seen: int = 0
    applied: int = 0
    reported: bool = False
    votes: dict[int, Vote] = field(default_factory=dict)
    proposed: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shape, self.tables = SHAPE, TABLES.copy()
        self.exchange = SimpleNamespace(dead=self.dead)
        self.meeting = SimpleNamespace(card=self.shown.get)
        self.cards = {rank: card(rank, 100 + rank).checksum for rank in range(4)}

    def alive(self) -> list[int]:
        return [rank for rank in range(4) if rank not in self.dead]

    def enough(self) -> bool:
        return len(self.alive()) * SIZES.slots >= SHAPE.experts

    def lost(self) -> bool:
        return not set(range(SHAPE.experts)) <= set(self.tables[:, self.alive()].ravel().tolist())

    def lingers(self, rank: int) -> bool:
        return rank in self.living

    def welcome(self, newcomer: Card) -> None:
        if newcomer.rank in self.refused:
            raise ServingError("cannot be reached")

    def propose(self, number: int, layer: int, table: np.ndarray) -> None:
        self.proposed.append(table)


def admitted(group: Group, votes: int) -> list[int]:
    """Ranks that are let in with so many votes, at each of which it looks."""
    clock = iter(np.arange(1, 1000) * 2 * LOOK_S)
    lead, found = Lead(group, lambda: next(clock)), []
    for _ in range(votes):
        group.number += 1
        found.append(lead.decide().admit - 1)
    return found


def test_a_process_is_let_in_when_the_one_before_it_has_ended() -> None:
    group = Group({3}, {3: card(3, 7)}, living={3})
    assert not admitted(group, 3).count(3)
    clock = iter(np.arange(1, 1000) * 2 * LOOK_S)
    lead = Lead(group, lambda: next(clock))
    group.enough = lambda: False  # nothing but a newcomer is news
    assert not lead.has_news()
    group.living.clear()
    assert lead.has_news()
    assert admitted(group, 1) == [3]


def test_a_card_that_stays_behind_keeps_nobody_out() -> None:
    # Rank 0 has joined anew: of the ranks that were dead then it knows no card.
    group = Group({1, 3}, {1: card(1, 101), 3: card(3, 7)}, refused={1})
    del group.cards[1], group.cards[3]
    found = admitted(group, 6)
    assert 3 in found and 1 not in found
    # Another process in the place is tried again.
    group.shown[1], group.refused = card(1, 8), set()
    assert admitted(group, 1) == [1]


def test_with_too_few_ranks_nothing_is_placed_and_others_are_let_in() -> None:
    group = Group({2, 3})
    assert not group.enough() and group.lost()
    clock = iter(np.arange(1, 1000) * 2 * LOOK_S)
    lead = Lead(group, lambda: next(clock))
    group.number = 1
    assert lead.decide().admit == 0
    assert not lead.has_news()
    group.shown[2] = card(2, 7)
    assert lead.has_news()
    group.number = 2
    assert lead.decide().admit == 3
    assert not group.proposed
    group.dead.discard(2)
    group.tables[:, 2] = -1
    assert lead.has_news()
    group.number = 3
    lead.decide()
    assert set(range(6)) <= set(group.proposed[0].ravel().tolist())
    assert (group.proposed[0][3] < 0).all() and (group.proposed[0][2] >= 0).all()


def test_a_proposal_of_another_who_led_is_voted_on_only_until_all_know_it() -> None:
    group = Group(set(), seen=5, applied=4)
    clock = iter(np.arange(1, 1000) * 2 * LOOK_S)
    lead = Lead(group, lambda: next(clock))
    group.votes = {rank: Vote(seen=4 + (rank < 2), ready=4) for rank in range(4)}
    assert lead.has_news()
    group.votes = {rank: Vote(seen=5, ready=4 + (rank < 2)) for rank in range(4)}
    assert not lead.has_news()
    group.votes = {rank: Vote(seen=5, ready=5) for rank in range(4)}
    assert lead.has_news()

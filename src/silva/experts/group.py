"""One rank of a group that shares the experts of a model, and how the group agrees before a pass.

    vote    every rank says what it has tokens for, whom it takes for dead, where it thinks experts
            are; a pass is whatever anybody has tokens for, the others take part without any
    lead    the lowest rank alive proposes other placements, layer by layer; who must load experts
            for one does so beside the passes; when all are ready, all switch before the same pass
    join    a process in the place of a dead rank is let in between two passes, with no experts yet

So no pass waits for a rebalancing, and none begins while experts are missing: then the vote is
repeated until those that were lost are loaded elsewhere. Ranks may see the death of another at
different times and then disagree on a vote; they notice in the exchange, which raises
OutOfStepError, and vote again. Nobody decides by a clock of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from threading import Thread

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.control.placement import Placement
from silva.errors import ServingError
from silva.experts.bell import Bell
from silva.experts.board import MOST_RANKS, Board, BoardShape, Vote
from silva.experts.exchange import OutOfStepError, SharedExchange
from silva.experts.flags import flags_for
from silva.experts.lead import Decision, Lead
from silva.experts.meeting import Card, Meeting
from silva.experts.memory import Member, OwnMemory, PeerMemory
from silva.experts.sizes import BufferSizes
from silva.experts.waiting import PATIENCE_S, await_all
from silva.models.deepseek_loader import Shelf
from silva.models.experts import ExpertWeights

REPORT = 16
"""Votes between two reports of the tokens that were sent to each expert."""


class Pass(IntEnum):
    """What is computed between two votes. The later one goes first where ranks want both."""

    NONE = 0
    HIDDEN = 1
    DRAFT = 2


@dataclass(frozen=True)
class GroupShape:
    """What all ranks of a group must have in common."""

    buffers: BufferSizes
    layers: Mapping[Pass, tuple[int, ...]]
    """The layers with experts that each pass goes through, by their numbers in the model."""
    experts: int
    """In each of these layers."""
    rebalance_s: float = 60.0
    """Seconds between two looks at the load; 0: experts stay where they are."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """All layers with experts, ascending; on boards they are counted in this order."""
        return tuple(sorted(n for layers in self.layers.values() for n in layers))

    @property
    def board(self) -> BoardShape:
        sizes = self.buffers
        return BoardShape(sizes.ranks, sizes.slots, len(self.numbers), self.experts)


@dataclass
class Place:
    """What a rank brings into its group, and what it was told where it joins a running one."""

    buffers: OwnMemory
    board: OwnMemory
    cards: Mapping[int, Card]
    tables: NDArray[np.int64]
    """Where experts are [layers, ranks, slots]."""
    number: int = 0
    """Of the last vote that it had no part in."""
    known: Vote = field(default_factory=Vote)


@dataclass
class _Proposal:
    """Another placement of a layer, by its place on the boards."""

    number: int
    layer: int
    table: NDArray[np.int64]
    weights: ExpertWeights | None = None
    """Where this rank holds other experts then."""
    loader: Thread | None = None
    error: Exception | None = None


class RankGroup:
    """An `ExpertExchange` over ranks that agree before each pass. For one thread, but `news`."""

    def __init__(
        self,
        shape: GroupShape,
        place: Place,
        meeting: Meeting,
        shelf: Shelf,
        *,
        news: Callable[[], None] = lambda: None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`news` is called, on another thread, when a rank that sleeps should call `take_part`.

        Raises ServingError when a rank is gone already.
        """
        self.shape, self.meeting, self.news = shape, meeting, news
        self.rank = place.board.member.rank
        self._shelf, self._patience_s = shelf, patience_s
        self.tables, self._number = place.tables.copy(), place.number
        self.seen = self.applied = place.known.seen
        self._ready = self._said_ready = place.known.seen
        self._proposal: _Proposal | None = None
        self.owes = False
        """Whether this rank left a pass early: others wait in it until they see its next vote."""
        self.moved = 0
        """Experts that this rank has loaded since it began."""
        dead = {rank for rank in range(shape.buffers.ranks) if place.known.dead >> rank & 1}
        numbers, ranks = shape.numbers, range(shape.buffers.ranks)
        self.exchange = SharedExchange(
            shape.buffers,
            place.buffers,
            [place.cards[rank].buffers for rank in ranks if rank not in dead],
            {layer: shelf(layer, self._held(n)) for n, layer in enumerate(numbers)},
            {layer: self.tables[n] for n, layer in enumerate(numbers)},
            total=shape.experts,
            dead=dead,
            patience_s=patience_s,
        )
        self.exchange.resume(place.known.round)
        self.exchange.gone_on = lambda rank: self._vote_of(rank, self._number + 1) is not None
        self.flags = flags_for()
        self._watched: dict[int, PeerMemory] = {}
        self.boards = {self.rank: Board(place.board, shape.board)}
        for rank in ranks:
            if rank not in {self.rank, *dead}:
                self._attach(place.cards[rank].board)
        self.cards = {rank: card.checksum for rank, card in place.cards.items()}
        """Checksums of the processes that are or were in the group."""
        self.votes: dict[int, Vote] = {}
        self._sent = np.zeros((len(numbers), shape.experts), np.uint32)
        self._index = {layer: n for n, layer in enumerate(numbers)}
        self._lead = Lead(self)
        self._bell = Bell(self.boards[self.rank], self.flags, news)

    # Passes ---------------------------------------------------------------------------------

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertExchange`."""
        at = self._index[layer]
        counts = torch.bincount(experts.reshape(-1), minlength=self.shape.experts)
        self._sent[at] += counts.numpy().astype(np.uint32)
        return self.exchange(layer, x, experts, weights)

    def turn(self, wants: Pass) -> Pass:
        """Vote, do what was agreed, and say what the pass is; NONE: vote again for what you want.

        Raises ServingError when this rank was taken for dead, or too few are left for the experts.
        """
        self._bell.wake()
        self.owes = False
        self._number += 1
        self._report()
        decided = self._lead.decide() if self._leads() else Decision(self.seen)
        self._said_ready = self._ready
        vote = Vote(
            wants=int(wants),
            dead=sum(1 << rank for rank in self.exchange.dead),
            round=self.exchange.round,
            placement=zlib.crc32(self.tables.tobytes()),
            seen=decided.seen,
            ready=self._said_ready,
            apply=decided.apply,
            admit=decided.admit,
            member=decided.member,
        )
        for rank in self.alive():
            board = self.boards[rank]
            board.post_vote(self.flags, self.rank, self._number, vote)
            if rank != self.rank and board.sleeps:
                self.flags.post(board.bell, [self._number])
        return self._agreed(self._votes())

    def follow(self, kind: Pass) -> None:
        """This rank's part in a pass that it has no tokens for."""
        sizes = self.shape.buffers
        dtype = self.exchange.dtype
        nothing = torch.zeros(0, sizes.hidden_size, dtype=dtype)
        nowhere, none = torch.zeros(0, sizes.top_k, dtype=torch.int64), torch.zeros(0, sizes.top_k)
        self.exchange.begin_step()
        for layer in self.shape.layers.get(kind, ()):
            self.exchange(layer, nothing, nowhere, none)

    def take_part(self) -> None:
        """One vote and one pass without tokens of one's own."""
        try:
            self.follow(self.turn(Pass.NONE))
        except OutOfStepError:
            self.owes = True

    def sleep(self) -> bool:
        """Whether this rank may sleep until `news`; False: call `take_part` instead."""
        if self.awaited():
            return False
        self._bell.sleep_until(self._number + 1)
        return not self.awaited()

    def awaited(self) -> bool:
        """Whether others have begun a vote, or this rank has something to say in one."""
        if any(self._vote_of(rank, self._number + 1) for rank in self.alive()):
            return True
        changed = self.owes or self._ready != self._said_ready
        return changed or (self._leads() and self._lead.has_news())

    # The group ------------------------------------------------------------------------------

    def alive(self) -> list[int]:
        """Ranks, this one among them."""
        return [rank for rank in self.boards if rank not in self.exchange.dead]

    def lost(self) -> bool:
        """Whether some expert is on no rank alive."""
        held = self.tables[:, self.alive()].reshape(len(self.tables), -1)
        present = np.zeros((len(held), self.shape.experts + 1), np.bool_)
        np.put_along_axis(present, held, True, axis=1)  # -1: the last column
        return not present[:, :-1].all()

    def close(self) -> None:
        """End what runs beside the passes; the memory goes with the last mapping."""
        self._bell.close()

    def _leads(self) -> bool:
        return self.rank == min(self.alive())

    def _vote_of(self, rank: int, number: int) -> Vote | None:
        return self.boards[self.rank].vote(rank, number)

    def _attach(self, member: Member) -> None:
        memory = PeerMemory(member)
        self._watched[member.rank] = memory
        self.boards[member.rank] = Board(memory, self.shape.board)

    def _votes(self) -> dict[int, Vote]:
        """The votes of this turn; who died instead is excluded."""
        board = self.boards[self.rank]
        words = {rank: board.vote_at(rank, self._number) for rank in self.alive()}
        died = await_all(
            self.flags,
            words,
            self._number,
            alive=lambda rank: self._watched[rank].alive(),
            patience_s=self._patience_s,
            check=lambda late: self.exchange.check_out(),
        )
        self.exchange.exclude(died)
        found = {rank: board.vote(rank, self._number) for rank in words if rank not in died}
        return {rank: vote for rank, vote in found.items() if vote is not None}

    def _agreed(self, votes: dict[int, Vote]) -> Pass:
        """Act on the votes of one turn, as all ranks do."""
        dead = {r for r in range(MOST_RANKS) for v in votes.values() if v.dead >> r & 1}
        if self.rank in dead:
            raise ServingError(f"rank {self.rank} was taken for dead by others")
        self.exchange.exclude(dead - self.exchange.dead)
        self.exchange.resume(max(vote.round for vote in votes.values()))
        self.votes, said = votes, votes[min(votes)]
        if said.apply > self.applied:
            self._switch(said.apply)
        if said.seen > self.seen:
            self._consider(said.seen)
        if said.admit:
            self._admit(said.admit - 1, said.member)
        if len(self.alive()) * self.shape.buffers.slots < self.shape.experts:
            raise ServingError(
                f"{len(self.alive())} ranks are left, too few for {self.shape.experts} experts"
            )
        if self.lost() or len({vote.placement for vote in votes.values()}) > 1:
            self._load_now()
            return Pass.NONE
        return Pass(max(vote.wants for vote in votes.values()))

    # Placement ------------------------------------------------------------------------------

    def propose(self, number: int, layer: int, table: NDArray[np.integer]) -> None:
        """As the rank that leads: with the vote to come, all begin to load."""
        for rank in self.alive():
            self.boards[rank].post_proposal(self.flags, number, layer, table)

    def rebalance(self, placement: Placement) -> None:
        """As the rank that leads: let experts move there, layer by layer, beside the passes."""
        self._lead.rebalance(placement)

    def welcome(self, card: Card) -> None:
        """As the rank that leads: let a process in after the vote to come. Raises ServingError."""
        board = Board(PeerMemory(card.board), self.shape.board)
        dead = self.exchange.dead - {card.rank}
        known = Vote(
            dead=sum(1 << rank for rank in dead), round=self.exchange.round, seen=self.seen
        )
        board.post_welcome(self.flags, self._number + 1, known, self.tables)

    @property
    def number(self) -> int:
        """Of the last vote, or the one that is being cast."""
        return self._number

    @property
    def reported(self) -> bool:
        """Whether all ranks have just reported what they sent."""
        return self._number % REPORT == 1

    def sent(self) -> NDArray[np.uint32]:
        """As the rank that leads: what all ranks last reported [ranks, layers, experts]."""
        return self.boards[self.rank].sent

    def _report(self) -> None:
        if self._number % REPORT == 0:
            self.boards[min(self.alive())].sent[self.rank] = self._sent

    def _held(self, n: int) -> tuple[int, ...]:
        """The experts that this rank holds of a layer, by its place on the boards."""
        return held_by(self.tables[n], self.rank)

    def _consider(self, number: int) -> None:
        """Begin to load what a proposal asks of this rank."""
        found, layer, table = self.boards[self.rank].proposal()
        self.seen = number
        if found != number:
            raise OutOfStepError(f"rank {self.rank} finds another proposal than was meant")
        proposal = self._proposal = _Proposal(number, layer, table)
        ids = held_by(table, self.rank)
        if ids == self._held(layer):
            self._ready = number
            return
        self.moved += len(set(ids) - set(self._held(layer)))

        def load() -> None:
            try:
                proposal.weights = self._shelf(self.shape.numbers[layer], ids)
            except Exception as error:
                proposal.error = error
            if self._proposal is proposal:
                self._ready = number
                self.news()

        proposal.loader = Thread(target=load, name="experts", daemon=True)
        proposal.loader.start()

    def _load_now(self) -> None:
        if self._proposal is not None and self._proposal.loader is not None:
            self._proposal.loader.join()

    def _switch(self, number: int) -> None:
        """From now on experts of a layer are where a proposal says."""
        proposal = self._proposal
        if proposal is None or proposal.number != number:
            raise OutOfStepError(f"rank {self.rank} does not know proposal {number}")
        self._load_now()
        if proposal.error is not None:
            raise ServingError(f"experts could not be loaded ({proposal.error})")
        layer = self.shape.numbers[proposal.layer]
        self.exchange.rebalance(layer, proposal.table, proposal.weights)
        self.tables[proposal.layer] = proposal.table
        self.applied, self._proposal = number, None

    def _admit(self, rank: int, checksum: int) -> None:
        card = self.meeting.card(rank)
        if card is None or card.checksum != checksum:
            return  # it is dead again: the next votes say so
        try:
            self._attach(card.board)
            self.exchange.admit(card.buffers)
        except ServingError:
            return
        self.cards[rank] = checksum


def held_by(table: NDArray[np.integer], rank: int) -> tuple[int, ...]:
    """The experts of a rank in a placement [ranks, slots], ascending."""
    return tuple(sorted(int(expert) for expert in table[rank] if expert >= 0))

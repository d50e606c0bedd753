"""One rank of a group that shares the experts of a model, and how the group agrees before a pass.

    vote    every rank says what it has tokens for, whom it takes for dead, where it thinks experts
            are; a pass is whatever anybody has tokens for, the others take part without any
    lead    the lowest rank alive proposes other placements, layer by layer; who must load experts
            for one does so beside the passes; when all are ready, all switch before the same pass
    join    a process in the place of a dead rank is let in between two passes, with no experts yet

So no pass waits for a rebalancing, and none begins while experts are missing: then the vote is
repeated until those that were lost are loaded elsewhere, and is an error on all ranks while there is
no room for them. Ranks may see the death of another at
different times and then disagree on a vote; they notice in the exchange, which raises
OutOfStepError, and vote again. Nobody decides by a clock of its own.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from silva.control.placement import Placement
from silva.control.placement_table import EMPTY
from silva.errors import ServingError
from silva.experts.attendance import Attendance
from silva.experts.bell import Bell
from silva.experts.board import MOST_RANKS, Board, Vote
from silva.experts.exchange import OutOfStepError, SharedExchange
from silva.experts.flags import flags_for
from silva.experts.lanes import Lanes
from silva.experts.lead import Decision, Lead
from silva.experts.meeting import Card, Meeting
from silva.experts.memory import Member, PeerMemory
from silva.experts.proposal import Proposal
from silva.experts.shape import GroupShape, Pass, Place
from silva.experts.splitting import Splitting
from silva.experts.waiting import PATIENCE_S, await_all
from silva.models.deepseek_loader import Shelf

REPORT = 16
"""Votes between two reports of the tokens that were sent to each expert."""


class TooFewError(ServingError):
    """So few ranks are left that they have no room for all experts."""

    usual = "start processes in the places of the ranks that ended"


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
        self._proposal: Proposal | None = None
        self.owes = False
        """Whether this rank must vote again: others may be in a pass that it has left, or not begun."""
        self.moved = 0
        """Experts that this rank has loaded since it began."""
        dead = {rank for rank in range(shape.buffers.ranks) if place.known.dead >> rank & 1}
        numbers, ranks = shape.numbers, range(shape.buffers.ranks)
        experts = {layer: shelf(layer, self._held(n)) for n, layer in enumerate(numbers)}
        lanes = [
            SharedExchange(
                sizes,
                place.buffers,
                [place.cards[rank].buffers for rank in ranks if rank not in dead],
                experts,
                {layer: self.tables[n] for n, layer in enumerate(numbers)},
                total=shape.experts,
                dead=dead,
                patience_s=patience_s,
                at=at,
                whole=shape.memory,
            )
            for sizes, at in zip(shape.lanes, (0, shape.second), strict=False)
        ]
        self.exchange = Lanes(lanes, numbers, shape.experts)
        self.splitting = Splitting(shape)
        self.exchange.resume(place.known.round)
        self.exchange.gone_on = lambda rank: self._vote_of(rank, self._number + 1) is not None
        self.flags = flags_for()
        self._watched: dict[int, PeerMemory] = {}
        self.boards = {self.rank: Board(place.board, shape.board)}
        for rank in ranks:
            if rank not in {self.rank, *dead}:
                self._attach(place.cards[rank].board)
        self.cards = {r: card.checksum for r, card in place.cards.items() if r not in dead}
        """Checksums of the processes that are or were in the group, or cannot join it."""
        self.votes: dict[int, Vote] = {}
        self._attendance = Attendance(dead)
        self._lead = Lead(self)
        self._bell = Bell(self.boards[self.rank], self.flags, news)

    # Passes ---------------------------------------------------------------------------------

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertExchange`."""
        return self.exchange(layer, x, experts, weights)

    def turn(self, wants: Pass, tokens: int = 0, *, halves: bool = False) -> Pass:
        """Vote, do what was agreed, and say what the pass is; NONE: vote again for what you want.

        `tokens`: how many this rank has for it; `halves`: whether it can split them in two. Then
        `splitting.now` says whether all do.

        Raises ServingError when this rank was taken for dead, and TooFewError, on all ranks and
        until others have joined, when too few are left for the experts.
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
            tokens=tokens,
            halves=int(halves),
            split=self.splitting.wish() if self._leads() else 0,
        )
        for rank in self.alive():
            board = self.boards[rank]
            board.post_vote(self.flags, self.rank, self._number, vote)
            if rank != self.rank and board.sleeps:
                self.flags.post(board.bell, [self._number])
        return self._agreed(self._votes())

    def follow(self, kind: Pass) -> None:
        """This rank's part in a pass that it has no tokens for."""
        self.exchange.begin_step()
        for layer in self.shape.layers.get(kind, ()):
            self.exchange.follow(layer, split=self.splitting.now)
        if kind is not Pass.NONE:
            self.splitting.finished()

    def take_part(self) -> None:
        """One vote and one pass without tokens of one's own. Raises as `turn` does."""
        with suppress(OutOfStepError), self.taking_part():
            self.follow(self.turn(Pass.NONE))

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """Around a vote and its pass: who leaves them by an error has to vote again."""
        try:
            yield
        except TooFewError:
            raise  # as all others do
        except BaseException:
            self.owes = True
            raise

    def sleep(self) -> bool:
        """Whether this rank may sleep until `news`; False: call `take_part` instead."""
        if self.awaited():
            return False
        # Nobody rings for a process that would take the place of a dead one.
        self._bell.sleep_until(self._number + 1, looks=bool(self.exchange.dead) and self._leads())
        return not self.awaited()

    def awaited(self) -> bool:
        """Whether others have begun a vote, or this rank has something to say in one."""
        if any(self._vote_of(rank, self._number + 1) for rank in self.alive()):
            return True
        changed = self.owes or self._ready != self._said_ready
        return changed or (self._leads() and self._lead.has_news())

    def bereft(self) -> bool:
        """Whether the process of another rank has ended since the last vote: the next one says so."""
        return any(not self.lingers(rank) for rank in self.alive() if rank != self.rank)

    def wanted(self) -> Pass:
        """What others have voted for so far, in a vote that this rank has not cast yet."""
        votes = [self._vote_of(rank, self._number + 1) for rank in self.alive()]
        return max((Pass(vote.wants) for vote in votes if vote), default=Pass.NONE)

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

    def enough(self) -> bool:
        """Whether the ranks alive have room for all experts."""
        return len(self.alive()) * self.shape.buffers.slots >= self.shape.experts

    def lingers(self, rank: int) -> bool:
        """Whether the process that this rank last knew in a place has not ended, dead or not."""
        return rank in self._watched and self._watched[rank].alive()

    def close(self) -> None:
        """End what runs beside the passes; the memory goes with the last mapping."""
        self._bell.close()
        # What is still being loaded or placed ends by itself, and calls nobody any more.
        self.news = lambda: None

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
            # Before the first vote each loads its experts, however long that takes.
            patience_s=self._patience_s if self._number > 1 else math.inf,
            check=lambda late: self.exchange.check_out(),
        )
        self.exchange.exclude(died)
        # Others may have had the last vote of who died, and go on as if nothing had happened.
        self.owes = bool(died)
        found = {rank: board.vote(rank, self._number) for rank in words if rank not in died}
        return {rank: vote for rank, vote in found.items() if vote is not None}

    def _agreed(self, votes: dict[int, Vote]) -> Pass:
        """Act on the votes of one turn, as all ranks do."""
        dead = {r for r in range(MOST_RANKS) for v in votes.values() if v.dead >> r & 1}
        if self.rank in dead:
            raise ServingError(f"rank {self.rank} was taken for dead by others")
        self.exchange.exclude(dead - self.exchange.dead)
        self._attendance.note(self.exchange.dead)
        self.exchange.resume(max(vote.round for vote in votes.values()))
        self.votes, said = votes, votes[min(votes)]
        if said.apply > self.applied:
            self._switch(said.apply)
        if said.seen > self.seen:
            self._consider(said.seen)
        if said.admit:
            self._admit(said.admit - 1, said.member)
            self._attendance.note(self.exchange.dead)
        if not self.enough():
            left, experts = len(self.alive()), self.shape.experts
            raise TooFewError(f"{left} ranks are left, too few for {experts} experts")
        differ = len({vote.placement for vote in votes.values()}) > 1
        if differ or said.admit or self.lost():
            if self._proposal is not None:
                # Not to the end: who does not vote in time counts as dead.
                self._proposal.wait(self._patience_s / 4)
            self.owes = True
            return Pass.NONE
        kind = Pass(max(vote.wants for vote in votes.values()))
        self.owes = self.owes and kind is Pass.NONE
        self.splitting.agree(kind, votes, said.split)
        return kind

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
        tables = self.tables.copy()
        tables[:, card.rank] = EMPTY
        board.post_welcome(self.flags, self._number + 1, known, tables)

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
            self.boards[min(self.alive())].sent[self.rank] = self.exchange.sent

    def _held(self, n: int) -> tuple[int, ...]:
        """The experts that this rank holds of a layer, by its place on the boards."""
        return held_by(self.tables[n], self.rank)

    def _consider(self, number: int) -> None:
        """Begin to load what a proposal asks of this rank."""
        found, layer, table = self.boards[self.rank].proposal()
        self.seen = number
        if found != number:
            raise OutOfStepError(f"rank {self.rank} finds another proposal than was meant")
        proposal = self._proposal = Proposal(number, layer, table)
        ids = held_by(table, self.rank)
        if ids == self._held(layer):
            self._ready = number
            return
        self.moved += len(set(ids) - set(self._held(layer)))

        def done() -> None:
            if self._proposal is proposal:
                self._ready = number
                self.news()

        proposal.load(lambda: self._shelf(self.shape.numbers[layer], ids), done)

    def _switch(self, number: int) -> None:
        """From now on experts of a layer are where a proposal says."""
        proposal = self._proposal
        if proposal is None or proposal.number != number:
            raise OutOfStepError(f"rank {self.rank} does not know proposal {number}")
        proposal.wait()
        if proposal.error is not None:
            raise ServingError(f"experts could not be loaded ({proposal.error})")
        layer = self.shape.numbers[proposal.layer]
        self.exchange.rebalance(layer, proposal.table, proposal.weights)
        self.tables[proposal.layer] = proposal.table
        self.applied, self._proposal = number, None

    def _admit(self, rank: int, checksum: int) -> None:
        """Let a process in, with no experts yet; on all ranks alike, even where it cannot be had."""
        self.cards[rank] = checksum
        self.tables[:, rank] = EMPTY
        for n, layer in enumerate(self.shape.numbers):
            self.exchange.rebalance(layer, self.tables[n].copy())
        card = self.meeting.card(rank)
        if card is None or card.checksum != checksum or self.lingers(rank):
            return  # it is dead again, or should not be here: the next votes say so
        # A process that has died meanwhile is dead in the next votes, too.
        with suppress(ServingError):
            self._attach(card.board)
            self.exchange.admit(card.buffers)


def held_by(table: NDArray[np.integer], rank: int) -> tuple[int, ...]:
    """The experts of a rank in a placement [ranks, slots], ascending."""
    return tuple(sorted(int(expert) for expert in table[rank] if expert >= 0))

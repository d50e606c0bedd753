"""Who computes a step together, in a group of ranks: those that voted for the same pass.

Whoever dies in it ends the pass for all that need it. The others vote again, and compute it again
without the dead one; who had finished already takes part as the experts of those who had not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from silva.experts.exchange import OutOfStepError
from silva.experts.group import RankGroup
from silva.experts.memory import Member
from silva.experts.shape import Pass
from silva.experts.shared_trade import Present


class GroupCompany:
    """A `Company` (silva.experts.shared_trade) of the ranks of a group, pass by pass."""

    def __init__(self, group: RankGroup, own: Member) -> None:
        """`own`: the memory of this rank's trade, which its card shows to the others."""
        self._group, self._exchange, self._own = group, group.exchange, own
        self._members: dict[int, tuple[int, Member]] = {}
        """Of other ranks, and the cards they are from."""
        self._ranks: set[int] = set()

    def begin(self) -> Present:
        """See `Company`: to be called between a vote and the next one."""
        group = self._group
        wants = group.votes[group.rank].wants
        self._ranks = {
            rank
            for rank, vote in group.votes.items()
            if vote.wants == wants and rank not in self._exchange.dead
        }
        return Present(group.number, {rank: self._member(rank) for rank in sorted(self._ranks)})

    def alive(self, rank: int) -> bool:
        """See `Company`."""
        return self._group.lingers(rank)

    def behind(self) -> NoReturn:
        """See `Company`: this rank has part in their pass with its experts alone."""
        self._group.follow(Pass(self._group.votes[self._group.rank].wants))
        raise OutOfStepError("others had an earlier step to compute")

    def check(self) -> None:
        """See `Company`: tokens that lack an answer are of no use to others, and nobody may be
        told of a step that has lost a rank.
        """
        if dead := self._ranks & self._exchange.dead:
            raise OutOfStepError(f"ranks {sorted(dead)} died in this pass")
        if self._exchange.incomplete.any():
            raise OutOfStepError("some experts died in this pass")

    def late(self, ranks: Sequence[int]) -> None:
        """See `Company`."""
        self._exchange.check_out()
        if any(map(self._exchange.gone_on, ranks)):
            raise OutOfStepError(f"ranks {list(ranks)} have left this pass")

    def lost(self, ranks: set[int]) -> NoReturn:
        """See `Company`."""
        self._exchange.exclude(ranks)
        raise OutOfStepError(f"ranks {sorted(ranks)} died in this pass")

    def _member(self, rank: int) -> Member:
        """The trade of the process that is in the group as `rank`."""
        if rank == self._group.rank:
            return self._own
        checksum, known = self._group.cards[rank], self._members.get(rank)
        if known is None or known[0] != checksum:
            card = self._group.meeting.card(rank)
            if card is None or card.checksum != checksum or card.trade is None:
                self.lost({rank})
            known = self._members[rank] = checksum, card.trade
        return known[1]

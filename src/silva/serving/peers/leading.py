"""The model of a prefill peer whose passes are shared by ranks that follow it.

Before each pass those that follow are told its tokens, and which blocks they must read from the leader
first; then all vote for it and compute it together (silva.experts.stages). Who was not told, or has
not heard, lends its experts alone, and reads what it has missed when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor

from silva.experts.ranked import RankedModel
from silva.experts.shared_trade import SharedTrade
from silva.experts.stages import StagedModel
from silva.serving.engine.attend import PagedStep
from silva.serving.peers.mirror import Mirror
from silva.serving.peers.parts import before, parts_of, touched
from silva.serving.wire.messages import Part, SharedPass
from silva.serving.wire.star import Outbox
from silva.transfer import Piece


class LeadingModel(RankedModel):
    """See the module; for one thread."""

    def __init__(self, ranked: RankedModel, piece: Callable[[int], Piece]) -> None:
        """`piece`: a block of this peer's memory as it is now, for others to read."""
        super().__init__(ranked.model, ranked.group)
        assert isinstance(ranked.model, StagedModel)
        assert isinstance(ranked.model.trade, SharedTrade)
        self._staged, self._trade = ranked.model, ranked.model.trade
        self._piece, self._outbox, self.mirror = piece, Outbox(), Mirror()
        self._others: dict[int, int] = {}
        """The ranks that follow, by the checksums of their cards, which tell their processes apart."""
        self._addresses: dict[int, str] = {}
        """Where they hear of passes."""

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """See `LanguageModel`."""
        parts = self._tell(tokens, attend)
        made = super().hidden(tokens, positions, attend)
        size = attend.memory.shape.block_tokens
        by = self._shared(touched(parts, size))
        self.mirror.learned(by, [block for part in parts for block in part.blocks])
        return made

    def draft(self, hidden: Tensor, tokens: Tensor, positions: Tensor, attend: Any) -> Tensor:
        """See `DraftingModel`; right after `hidden`, and of all its tokens."""
        parts = self._tell(tokens, attend, draft=True)
        made = super().draft(hidden, tokens, positions, attend)
        self._shared(touched(parts, attend.memory.shape.block_tokens))
        return made

    def close(self) -> None:
        """Tell nobody anything any more."""
        self._outbox.close()

    def _tell(self, tokens: Tensor, attend: PagedStep, *, draft: bool = False) -> tuple[Part, ...]:
        parts, group = parts_of(tokens, attend), self.group
        held = before(parts, attend.memory.shape.block_tokens)
        self._meet()
        others = dict(self._listeners())
        lacking = {who: self.mirror.lacks(who, () if draft else held) for who in others}
        pieces = {block: self._piece(block) for block in set().union(*lacking.values())}
        for who, where in others.items():
            known = tuple((block, pieces[block]) for block in lacking[who])
            self._outbox.send(
                where, SharedPass(group.number, self._staged.steps, draft, parts, known)
            )
        return parts

    def _shared(self, blocks: Collection[int]) -> list[int]:
        """The pass that wrote to `blocks` is over: who else has computed it."""
        self._meet()
        by = [who for who, rank in self._others.items() if rank in self._trade.ranks]
        self.mirror.written(blocks, by)
        return by

    def _meet(self) -> None:
        """See who follows now."""
        group = self.group
        self._others = {group.cards[rank]: rank for rank in group.alive() if rank != group.rank}
        self.mirror.meet(self._others)
        for gone in self._addresses.keys() - self._others.keys():
            self._outbox.forget(self._addresses.pop(gone))

    def _listeners(self) -> Iterator[tuple[int, str]]:
        """Who can be told of a pass, and where."""
        for who, rank in self._others.items():
            if who not in self._addresses:
                card = self.group.meeting.card(rank)
                if card is None or card.checksum != who or not card.address:
                    continue  # it has died, and another one stands in its place already
                self._addresses[who] = card.address
            yield who, self._addresses[who]

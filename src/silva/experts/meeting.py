"""How the ranks of a group find each other: a card for each in a folder of the run.

A card says where its rank's memory is, and with whom it would begin. All begin together once all
cards name the same ranks; whoever comes later, in the place of one that died, waits to be let in.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from silva.errors import ServingError
from silva.experts.memory import Member


@dataclass(frozen=True)
class Card:
    """One rank, as the others find it."""

    buffers: Member
    board: Member
    trade: Member | None = None
    """Where a rank that shares steps with others is handed things (silva.experts.shared_trade)."""
    address: str = ""
    """Where a rank that shares steps hears which ones, unless it chooses them itself."""
    party: int = 0
    """A checksum of all cards that it would begin with; 0: some are missing."""

    @property
    def rank(self) -> int:
        return self.board.rank

    @property
    def checksum(self) -> int:
        """Of the process, whatever its party: 32 bits, not 0."""
        return zlib.crc32(msgspec.json.encode(replace(self, party=0))) or 1


class Meeting:
    """The cards of a group in a folder, which may have other groups with other names."""

    def __init__(self, folder: Path, ranks: int, name: str = "experts") -> None:
        self._folder, self._ranks, self._name = folder, ranks, name

    def show(self, card: Card) -> None:
        """Put one's own card there, in the place of an older one."""
        scratch = self._folder / f".{self._name}-{card.rank}-{os.getpid()}"
        try:
            scratch.write_bytes(msgspec.json.encode(card))
            scratch.replace(self._path(card.rank))
        except OSError as error:
            what = f"the ranks of experts cannot meet: {error.strerror or error}"
            raise ServingError(what, where=self._folder) from error

    def card(self, rank: int) -> Card | None:
        """A rank's present card, None where there is none."""
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            return msgspec.json.decode(self._path(rank).read_bytes(), type=Card)
        return None

    def cards(self) -> Mapping[int, Card]:
        """All cards that are there."""
        found = ((rank, self.card(rank)) for rank in range(self._ranks))
        return {rank: card for rank, card in found if card is not None}

    def party(self, cards: Mapping[int, Card]) -> int:
        """The checksum of all ranks, 0 while some are missing."""
        if len(cards) < self._ranks:
            return 0
        words = (cards[rank].checksum.to_bytes(4, "little") for rank in range(self._ranks))
        return zlib.crc32(b"".join(words)) or 1

    def _path(self, rank: int) -> Path:
        return self._folder / f"{self._name}-{rank}"

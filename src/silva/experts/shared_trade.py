"""The all-to-all of ranks on one machine: each writes its pieces straight into the others' memory.

    [round odd or even][rank] flag, what the round is about, bytes    written by that rank
    [round odd or even][rank] a piece                                 written by that rank

Pieces that are larger than their place go in several rounds. A rank writes what it has for all
others, then their flags, sleeps until the flags of all are here, and copies what came. Nothing is
overwritten that is still read: who is two rounds further has the flag of the round between, which
its reader raised when it had copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import ServingError
from silva.experts.exchange import OutOfStepError
from silva.experts.flags import WORD_BYTES, flags_for
from silva.experts.memory import Member, Memory, OwnMemory, PeerMemory
from silva.experts.sizes import LINE_BYTES
from silva.experts.trade import Goods, Sharers, Step
from silva.experts.waiting import PATIENCE_S, await_all
from silva.kernels.native import Backend

_ROUNDS = 1 << 16
"""Numbers of rounds between those of two passes; a pass with more of them uses some twice, and is
told from others by its own number."""


@dataclass(frozen=True)
class TradeSizes:
    """Sizes of one rank's memory, in bytes."""

    ranks: int
    piece: int
    """What one rank sends another at most in one round."""

    @property
    def place(self) -> int:
        """A piece, rounded up to whole lines."""
        return -(-self.piece // LINE_BYTES) * LINE_BYTES

    @property
    def total(self) -> int:
        """All of one rank's memory."""
        return 2 * self.ranks * (LINE_BYTES + self.place)


class Present(NamedTuple):
    """Who computes a pass, this rank among them."""

    number: int
    """Of the pass: the same on all ranks, and another one than that of the pass before."""
    members: Mapping[int, Member]
    """The memory of their trades, by rank."""


class Company(Protocol):
    """The ranks around a trade. What it raises ends the pass on this rank."""

    def begin(self) -> Present:
        """Who is there for the pass that begins now. All of them have left the pass before."""
        ...

    def alive(self, rank: int) -> bool:
        """Whether the process of a rank that is there has not ended."""
        ...

    def behind(self) -> NoReturn:
        """Others in the pass are at an earlier step: let them compute it first, and raise."""
        ...

    def check(self) -> None:
        """Raise where this rank has nothing to hand on that others may use; before each round."""
        ...

    def late(self, ranks: Sequence[int]) -> None:
        """Raise where it is no use to wait for these any longer; called now and then."""
        ...

    def lost(self, ranks: set[int]) -> NoReturn:
        """These ranks of the pass have died: raise what follows."""
        ...


class SharedTrade:
    """A `Trade` between those ranks of a company that begin the same step. For one thread."""

    def __init__(
        self,
        sizes: TradeSizes,
        memory: OwnMemory,
        company: Company,
        *,
        patience_s: float = PATIENCE_S,
        backend: Backend = "auto",
    ) -> None:
        """`memory` of this rank. Raises as `flags_for` does."""
        self.sizes, self.rank = sizes, memory.member.rank
        self.traffic = Counter[Goods]()
        self._company, self._patience_s = company, patience_s
        self._flags = flags_for(backend)
        self._mine = _Slots(memory, sizes)
        self._members: dict[int, Member] = {}
        self._slots: dict[int, _Slots] = {}
        """The memory of other ranks, as far as this one has met them."""
        self.ranks = [self.rank]
        """Those that compute the present step, or have computed the last one; this one among them."""
        self._pass, self._step, self._number = 0, Step(0, 0), 0

    def begin(self, step: Step) -> Sharers:
        """See `Trade`. Raises what the company raises, and ServingError where memories differ."""
        present = self._company.begin()
        for rank, member in present.members.items():
            self._meet(rank, member)
        self._pass, self._step = present.number % 2**32, step
        self._number = present.number * _ROUNDS
        self.ranks = sorted(present.members)
        steps = {rank: said.step for rank, said in self._round(0, {}).items()}
        if any(other.number < step.number for other in steps.values()):
            self._company.behind()
        # Others compute something else in the same pass.
        self.ranks = [n for n in self.ranks if n == self.rank or steps[n] == step]
        return Sharers(self.ranks.index(self.rank), len(self.ranks))

    def __call__(
        self,
        goods: Goods,
        pieces: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
        largest: int,
    ) -> list[Tensor]:
        """See `Trade`."""
        if len(self.ranks) == 1:
            self._company.check()
            return list(pieces)
        others = [(n, rank) for n, rank in enumerate(self.ranks) if rank != self.rank]
        dtype, most = pieces[0].dtype, self.sizes.piece
        came = [torch.empty(shape, dtype=dtype) for shape in shapes]
        came[self.ranks.index(self.rank)] = pieces[self.ranks.index(self.rank)]
        going = {rank: _bytes(pieces[n]) for n, rank in others}
        coming = {rank: _bytes(came[n]) for n, rank in others}
        for at in range(0, largest * dtype.itemsize, most):
            parts = {rank: piece[at : at + most] for rank, piece in going.items()}
            said = self._round(goods, parts)
            self.traffic[goods] += sum(map(len, parts.values()))
            for rank, piece in coming.items():
                part = piece[at : at + most]
                if (said[rank].step, said[rank].size) != (self._step, len(part)):
                    raise OutOfStepError(f"rank {rank} does not hand on what {self.rank} waits for")
                part.copy_(self._mine.piece(rank, self._number)[: len(part)])
        return came

    def _round(self, about: int, parts: Mapping[int, Tensor]) -> dict[int, _Said]:
        """Write parts to the others, and wait for theirs; what each said of it."""
        self._company.check()
        self._number = (self._number + 1) % 2**32
        number, others = self._number, [rank for rank in self.ranks if rank != self.rank]
        for rank in others:
            there, part = self._slots[rank], parts.get(rank)
            size = 0 if part is None else len(part)
            if part is not None:
                there.piece(self.rank, number)[:size] = part
            said = _Said(self._pass, about, *self._step, size)
            self._flags.post(there.flag(self.rank, number), [number, *said])
        died = await_all(
            self._flags,
            {rank: self._mine.flag(rank, number) for rank in others},
            number,
            alive=self._company.alive,
            patience_s=self._patience_s,
            check=self._company.late,
        )
        if died:
            self._company.lost(died)
        said_by = {rank: self._mine.said(rank, number) for rank in others}
        for rank, said in said_by.items():
            if (said.number, said.about) != (self._pass, about):
                raise OutOfStepError(f"ranks {rank} and {self.rank} are in different passes")
        return said_by

    def _meet(self, rank: int, member: Member) -> None:
        """Map another rank's memory, unless that is done already."""
        if rank == self.rank or self._members.get(rank) == member:
            return
        if (member.rank, member.size) != (rank, self.sizes.total):
            raise ServingError(f"ranks {rank} and {self.rank} have different memories to trade by")
        try:
            memory = PeerMemory(member)
        except ServingError:
            self._company.lost({rank})
        self._slots[rank], self._members[rank] = _Slots(memory, self.sizes), member


class _Said(NamedTuple):
    """What a rank writes beside its flag."""

    number: int
    """Of the pass."""
    about: int
    """A `Goods`; 0: the step begins."""
    steps: int
    content: int
    size: int
    """Bytes of the piece."""

    @property
    def step(self) -> Step:
        """Which one it is in."""
        return Step(self.steps, self.content)


class _Slots:
    """One rank's memory, seen by itself or by another."""

    def __init__(self, memory: Memory, sizes: TradeSizes) -> None:
        self._memory, self._ranks = memory, sizes.ranks
        lines = 2 * sizes.ranks * LINE_BYTES
        words: NDArray[np.uint32] = memory.bytes[:lines].numpy().view(np.uint32)
        self._words = words.reshape(2 * sizes.ranks, -1)
        self._pieces = memory.bytes[lines : sizes.total].view(2 * sizes.ranks, sizes.place)

    def flag(self, rank: int, number: int) -> int:
        """The address of what holds `number` once the piece of `rank` in that round is here."""
        return self._memory.address + self._at(rank, number) * LINE_BYTES

    def piece(self, rank: int, number: int) -> Tensor:
        """Where `rank` writes in that round."""
        return self._pieces[self._at(rank, number)]

    def said(self, rank: int, number: int) -> _Said:
        """What `rank` wrote beside its flag."""
        words = self._words[self._at(rank, number), 1 : 1 + len(_Said._fields)]
        return _Said(*words.tolist())

    def _at(self, rank: int, number: int) -> int:
        return (number % 2) * self._ranks + rank


assert (1 + len(_Said._fields)) * WORD_BYTES <= LINE_BYTES


def _bytes(x: Tensor) -> Tensor:
    """The bytes of a tensor, one after the other; of its own memory where that is contiguous."""
    return x.contiguous().view(-1).view(torch.uint8)

"""What ranks that share a step hand each other: rows of all to all, or columns back to rows.

Both are one all-to-all, a `Trade`. `silva.experts.shared_trade` is that of ranks on one machine;
here is its plain twin over torch.distributed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Goods(IntEnum):
    """What is handed on."""

    LATENTS = 1
    """What queries, keys and values of all heads are made from."""
    HEADS = 2
    """What some heads say to a token."""
    HIDDEN = 3
    """Last hidden states."""


class Step(NamedTuple):
    """Which step a rank begins, in 32 bits each."""

    number: int
    """Steps that it computed before."""
    content: int
    """A checksum of tokens and positions."""


class Sharers(NamedTuple):
    """The ranks that compute a step together."""

    place: int
    """Of this rank among them."""
    ranks: int


class Trade(Protocol):
    """An all-to-all between the ranks that share a step. All of them call it alike."""

    traffic: Counter[Goods]
    """Bytes that this rank sent to others, what it keeps for itself aside."""

    def begin(self, step: Step) -> Sharers:
        """Begin a step, and say with whom."""
        ...

    def __call__(
        self,
        goods: Goods,
        pieces: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
        largest: int,
    ) -> list[Tensor]:
        """What each sharer sent here, of `shapes`; `pieces` [rows, columns] are sent, one to each.

        All have one type, and no piece of any sharer has more than `largest` values. What comes is
        the caller's own, or what it sent to itself.
        """
        ...


def even(total: int, parts: int) -> list[int]:
    """`total` cut into so many parts that differ by one at most, the larger ones first."""
    share, more = divmod(total, parts)
    return [share + (n < more) for n in range(parts)]


def gather(trade: Trade, goods: Goods, x: Tensor, rows: Sequence[int]) -> Tensor:
    """The rows of all sharers, one after the other [sum(rows), width]; x are those of this one."""
    width = x.shape[1]
    came = trade(goods, [x] * len(rows), [(n, width) for n in rows], max(rows) * width)
    return torch.cat(came)


def to_rows(
    trade: Trade, goods: Goods, x: Tensor, rows: Sequence[int], columns: Sequence[int], place: int
) -> Tensor:
    """From all rows and some columns to some rows and all columns [rows[place], sum(columns)].

    x [sum(rows), columns[place]]; sharer n is to have ``rows[n]`` rows, and has ``columns[n]``.
    """
    shapes = [(rows[place], n) for n in columns]
    came = trade(goods, x.split(list(rows)), shapes, max(rows) * max(columns))
    return torch.cat(came, dim=1)


class CollectiveTrade:
    """A `Trade` between all ranks of a process group. It knows no dead ranks, and asks no step."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._sharers = (
            group,
            Sharers(dist.get_rank(group), dist.get_world_size(group)),
        )
        self.traffic = Counter[Goods]()

    def begin(self, step: Step) -> Sharers:
        """See `Trade`."""
        return self._sharers

    def __call__(
        self,
        goods: Goods,
        pieces: Sequence[Tensor],
        shapes: Sequence[tuple[int, int]],
        largest: int,
    ) -> list[Tensor]:
        """See `Trade`."""
        going = [piece.numel() for piece in pieces]
        coming = [rows * columns for rows, columns in shapes]
        arrived = pieces[0].new_empty(sum(coming))
        sent = torch.cat([piece.reshape(-1) for piece in pieces])
        dist.all_to_all_single(arrived, sent, coming, going, group=self._group)
        away = sum(going) - going[self._sharers.place]
        self.traffic[goods] += away * arrived.element_size()
        return [made.view(shape) for made, shape in zip(arrived.split(coming), shapes, strict=True)]

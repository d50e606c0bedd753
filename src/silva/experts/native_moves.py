"""The moves of a round, compiled (silva/kernels/exchange.cpp); see `silva.experts.moves`.

It has the barriers that every processor needs, and one call where the portable form has many.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.experts.layout import Layout, Topic
from silva.experts.routes import Routes
from silva.experts.sent import Sent
from silva.experts.sizes import BufferSizes
from silva.kernels import native

TYPES = (torch.float32, torch.bfloat16)
"""Of a model whose tokens it can move."""


def compiled_for(dtype: torch.dtype) -> ModuleType | None:
    """The compiled module, if it can move tokens of this type here."""
    here = platform.system() == "Linux" and dtype in TYPES
    return native.compiled() if here else None


class NativeMoves:
    """See `Moves`."""

    def __init__(
        self,
        module: ModuleType,
        rank: int,
        layouts: Mapping[int, Layout],
        sizes: BufferSizes,
        dtype: torch.dtype,
    ) -> None:
        self._module, self._dtype, self._hidden = module, dtype, sizes.hidden_size
        self._layouts, self._mine = layouts, layouts[rank].address
        self._shape = (
            sizes.ranks,
            rank,
            sizes.max_tokens,
            sizes.slots,
            sizes.hidden_size,
            sizes.line,
            int(dtype is torch.bfloat16),
            int(sizes.wire == "int8"),
        )

    def send(
        self,
        ranks: Sequence[int],
        number: int,
        topic: Topic,
        x: Tensor,
        experts: Tensor,
        to: Routes,
    ) -> Sent:
        x, chosen = x.contiguous(), experts.contiguous()
        answers = torch.empty_like(chosen)
        counts = np.empty((self._shape[0], self._shape[3]), np.int64)
        self._module.exchange_send(
            self._bases(ranks),
            self._shape,
            number,
            topic.word,
            topic.placement,
            self._address(x, len(chosen)),
            chosen.numpy(),
            to.held.numpy(),
            to.replicas.numpy(),
            answers.numpy(),
            counts,
        )
        return Sent(answers, counts)

    def gather(
        self, ranks: Sequence[int], counts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> Tensor:
        rows = torch.empty(int(counts[:, order].sum()), self._hidden, dtype=self._dtype)
        self._module.exchange_gather(
            self._mine, self._shape, list(ranks), counts, order, rows.data_ptr()
        )
        return rows

    def answer(
        self,
        ranks: Sequence[int],
        number: int,
        counts: NDArray[np.int64],
        order: NDArray[np.int64],
        made: Tensor,
    ) -> None:
        made = made.contiguous()
        address = self._address(made, int(counts[:, order].sum()))
        self._module.exchange_answer(
            self._bases(ranks), self._shape, number, list(ranks), counts, order, address
        )

    def combine(self, answers: Tensor, weights: Tensor) -> Tensor:
        total = torch.empty(len(weights), self._hidden)
        self._module.exchange_combine(
            self._mine,
            self._shape,
            answers.contiguous().numpy(),
            weights.contiguous().numpy(),
            total.data_ptr(),
        )
        return total

    def _address(self, rows: Tensor, count: int) -> int:
        """Where so many rows of the model's type are. Raises ValueError for anything else."""
        if rows.shape != (count, self._hidden) or rows.dtype != self._dtype:
            found = f"{tuple(rows.shape)} of {rows.dtype}"
            raise ValueError(f"{found} are not {count} x {self._hidden} of {self._dtype}")
        return rows.data_ptr()

    def _bases(self, ranks: Sequence[int]) -> NDArray[np.uint64]:
        """Where each rank's memory is in this process; 0 for who is not meant."""
        bases = np.zeros(self._shape[0], np.uint64)
        for rank in ranks:
            bases[rank] = self._layouts[rank].address
        return bases

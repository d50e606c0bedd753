"""Which tokens one pass of a model computes, in arrays: those of one sequence after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from silva.control.request import Chunk
from silva.kernels import Backend
from silva.serving.engine.attend import PagedStep, attention_of
from silva.serving.engine.batch import Batch
from silva.serving.engine.kv import KVMemory


@dataclass(frozen=True)
class Pass:
    """The rows that decode come first, in the batch's order, then the chunks of prompts."""

    slots: NDArray[np.int64]
    """[sequences] whose tokens they are."""
    counts: NDArray[np.int32]
    """[sequences] how many of each: at least one."""
    tokens: NDArray[np.int64]
    """[tokens]"""
    positions: NDArray[np.int64]
    """[tokens] each in its own sequence; those of one sequence ascend by one."""
    samples: NDArray[np.bool_]
    """[sequences] whether the last one's logits choose a token."""
    drafted: NDArray[np.int64]
    """Rows, by number, that have a second token: a draft, to be found right or wrong."""

    @property
    def ends(self) -> NDArray[np.int32]:
        """[sequences] where the tokens of each end."""
        return self.counts.cumsum(dtype=np.int32)

    @property
    def seconds(self) -> NDArray[np.int32]:
        """Where the drafts are among the tokens."""
        return self.ends[self.drafted] - 1

    @property
    def chosen(self) -> NDArray[np.int32]:
        """Tokens whose logits choose: one of each sequence that samples, before any draft."""
        ends = self.ends - 1
        ends[self.drafted] -= 1
        return ends[self.samples]

    def attention(
        self, table: NDArray[np.int32], memory: KVMemory, threads: int, backend: Backend
    ) -> PagedStep:
        """What the model attends with; `table` is the batch's."""
        size, at, ends = memory.shape.block_tokens, self.positions, self.ends
        contexts = (at[ends - 1] + 1).astype(np.int32)
        blocks = table[np.repeat(self.slots, self.counts), at // size].astype(np.int64)
        return attention_of(memory)(
            memory,
            table[self.slots, : -(-int(contexts.max()) // size)],
            np.concatenate([np.zeros(1, np.int32), ends]),
            contexts,
            blocks * size + at % size,
            threads,
            backend,
        )

    def places(self, order: Sequence[int]) -> NDArray[np.int64]:
        """[tokens] where the tokens are of these sequences, one after the other."""
        counts = self.counts[order].astype(np.int64)
        starts = (self.ends - self.counts)[order].astype(np.int64)
        within = np.arange(len(self.tokens)) - np.repeat(counts.cumsum() - counts, counts)
        return np.repeat(starts, counts) + within

    def ordered(self, order: Sequence[int], places: NDArray[np.int64]) -> Pass:
        """The same sequences in another order, with their tokens at `places`; it knows no drafts."""
        return Pass(
            self.slots[order],
            self.counts[order],
            self.tokens[places],
            self.positions[places],
            self.samples[order],
            self.drafted[:0],
        )

    def followed(
        self, following: NDArray[np.int64], right: NDArray[np.bool_]
    ) -> tuple[Pass, NDArray[np.bool_]]:
        """The same with the tokens that follow each, and without drafts that were wrong.

        following [tokens]; right [drafted]. Also which tokens are left, bool [tokens].
        """
        kept = np.ones(len(self.tokens), np.bool_)
        kept[self.seconds] = right
        counts = self.counts.copy()
        counts[self.drafted] -= ~right
        left = replace(
            self,
            counts=counts,
            tokens=following[kept],
            positions=self.positions[kept],
            drafted=self.drafted[:0],
        )
        return left, kept


def pass_of(batch: Batch, chunks: Sequence[tuple[Chunk, Sequence[int]]]) -> Pass:
    """The pass over everybody who decodes, and over `chunks` with all tokens of their requests.

    A draft is computed where the two tokens that may come of it are within the request's limit.
    """
    rows = batch.rows
    fits = (batch.drafts[rows] >= 0) & (batch.positions[rows] + 3 <= batch.limits[rows])
    drafted = np.flatnonzero(fits)
    counts = np.concatenate([1 + fits, [c.stop - c.start for c, _ in chunks]]).astype(np.int32)
    own, at = np.repeat(batch.tokens[rows], 1 + fits), np.repeat(batch.positions[rows], 1 + fits)
    seconds = counts.cumsum()[drafted] - 1
    own[seconds] = batch.drafts[rows[drafted]]
    at[seconds] += 1
    tokens, positions = [own], [at]
    for chunk, known in chunks:
        tokens.append(np.array(known[chunk.start : chunk.stop], np.int64))
        positions.append(np.arange(chunk.start, chunk.stop))
    slots = np.array([batch.slot(chunk.request) for chunk, _ in chunks], np.int64)
    samples = np.array([True] * len(rows) + [chunk.samples for chunk, _ in chunks], np.bool_)
    return Pass(
        np.concatenate([rows, slots]),
        counts,
        np.concatenate(tokens),
        np.concatenate(positions),
        samples,
        drafted,
    )

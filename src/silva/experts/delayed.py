"""A wire that is slow to arrive: the fake of the exchange's moves, with latency and nothing lost.

    post = Post(0.002)
    exchange.rewire(post.moves)

What a rank sends to others lies in memory of its own for so long, and is then written where it belongs,
by a thread that sleeps until it is due; what it sends to itself is there at once. Neither sender nor
receiver computes anything for it meanwhile, as with a network.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.experts.flags import Flags, flags_for
from silva.experts.layout import Layout, Topic
from silva.experts.memory import Private
from silva.experts.moves import make_moves
from silva.experts.routes import Routes
from silva.experts.sent import Sent
from silva.experts.sizes import BufferSizes
from silva.kernels.native import Backend


class Post:
    """Delivers what is given to it after `delay_s`, in order."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._jobs: queue.SimpleQueue[tuple[float, Callable[[], None]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="post", daemon=True)
        self._thread.start()

    def moves(
        self,
        backend: Backend,
        rank: int,
        layouts: Mapping[int, Layout],
        sizes: BufferSizes,
        dtype: torch.dtype,
    ) -> DelayedMoves:
        """As `make_moves`, with what goes to other ranks in this post."""
        return DelayedMoves(self, backend, rank, layouts, sizes, dtype)

    def take(self, job: Callable[[], None]) -> None:
        """Do this when it is due."""
        self._jobs.put((time.monotonic() + self._delay_s, job))

    def close(self) -> None:
        """Deliver what is under way, and end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._jobs.get()) is not None:
            due_s, job = given
            time.sleep(max(0.0, due_s - time.monotonic()))
            with torch.inference_mode():  # there it may write into any memory
                job()


class DelayedMoves:
    """See `Moves`: those of an exchange, into memories that stand for the others' until it is time."""

    def __init__(
        self,
        post: Post,
        backend: Backend,
        rank: int,
        layouts: Mapping[int, Layout],
        sizes: BufferSizes,
        dtype: torch.dtype,
    ) -> None:
        self._post, self._rank, self._layouts = post, rank, layouts
        self._flags: Flags = flags_for(backend)
        self._out = {
            n: layouts[rank] if n == rank else Layout(Private(sizes.total), sizes, dtype)
            for n in range(sizes.ranks)
        }
        self._moves = make_moves(backend, rank, self._out, sizes, dtype)

    def send(
        self,
        ranks: Sequence[int],
        number: int,
        topic: Topic,
        x: Tensor,
        experts: Tensor,
        to: Routes,
    ) -> Sent:
        sent = self._moves.send(ranks, number, topic, x, experts, to)
        for rank in ranks:
            if rank != self._rank:
                words = [number, topic.word, topic.placement, *sent.counts[rank].tolist()]
                self._deliver(rank, number, words)
        return sent

    def _deliver(self, rank: int, number: int, words: Sequence[int]) -> None:
        count, lies, there = sum(words[3:]), self._out[rank], self._layouts[rank]

        def job() -> None:
            pairs = zip(lies.tokens[self._rank], there.tokens[self._rank], strict=True)
            for mine, theirs in pairs:
                if mine is not None and theirs is not None:
                    theirs[:count] = mine[:count]
            self._flags.post(there.flag(self._rank, number), words)

        self._post.take(job)

    def gather(
        self, ranks: Sequence[int], counts: NDArray[np.int64], order: NDArray[np.int64]
    ) -> Tensor:
        return self._moves.gather(ranks, counts, order)

    def answer(
        self,
        ranks: Sequence[int],
        number: int,
        counts: NDArray[np.int64],
        order: NDArray[np.int64],
        made: Tensor,
    ) -> None:
        self._moves.answer(ranks, number, counts, order, made)
        for rank, count in zip(ranks, counts.sum(axis=1).tolist(), strict=True):
            if rank != self._rank:
                self._deliver_answers(rank, number, count)

    def _deliver_answers(self, rank: int, number: int, count: int) -> None:
        lies, there = self._out[rank].answers[self._rank], self._layouts[rank]

        def job() -> None:
            there.answers[self._rank][:count] = lies[:count]
            self._flags.post(there.answered(self._rank), [number])

        self._post.take(job)

    def combine(self, answers: Tensor, weights: Tensor) -> Tensor:
        return self._moves.combine(answers, weights)

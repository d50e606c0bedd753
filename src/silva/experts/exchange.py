"""Fused dispatch and combine: each rank writes its tokens straight into the receivers' memory.

    dispatch  tokens, then a count for each slot, then the flag of the round, to every rank
    serve     wait for the flags of all ranks, run the experts on what came, write the answers back
    combine   wait for the flags of those who answer, sum by gate weights in a fixed order

No collective, no size that changes from step to step (arXiv 2506.12708, section 4.2.1). All ranks
take part in every round, with or without tokens of their own; a rank that died is left out. Nobody
spins: who waits sleeps on the flag itself.

Why nothing is overwritten that is still read: a rank goes on to its next round when all answers to
its tokens are in, so the receiver has read them; and flags and counts, which go to everybody, have
two places in turn, of which the one is free when the flags of the round between have come.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import ServingError
from silva.experts import wire
from silva.experts.flags import flags_for
from silva.experts.layout import Layout, Topic
from silva.experts.memory import Member, Memory, OwnMemory, PeerMemory
from silva.experts.moves import MakeMoves, make_moves
from silva.experts.routes import Routes
from silva.experts.sent import Sent
from silva.experts.sizes import BufferSizes
from silva.experts.waiting import PATIENCE_S, await_all
from silva.kernels.native import Backend
from silva.models.experts import ExpertWeights, run_sorted

Run = Callable[[Tensor, Tensor, ExpertWeights], Tensor]
"""Experts on rows sorted by expert, so many for each: see `run_sorted`."""


@dataclass
class Traffic:
    """What this rank sent to others, in whole messages as they lie in the buffers.

    Flags and counts aside; the padding behind the scale of an int8 token is counted, not written.
    """

    tokens: int = 0
    dispatch_bytes: int = 0
    answers: int = 0
    combine_bytes: int = 0


class Round(NamedTuple):
    """A round of which this rank has not had the answers yet."""

    topic: Topic
    sent: Sent
    weights: Tensor
    """Of the answers, float32 [tokens, top_k]."""


class _Came(NamedTuple):
    """Tokens that came in a round."""

    ranks: list[int]
    counts: NDArray[np.int64]
    """[ranks, slots]"""
    more: bool
    """Whether another rank has more tokens."""


class OutOfStepError(ServingError):
    """The ranks of an exchange do not compute the same: nothing of this pass can be used."""

    usual = "the pass can be begun anew once all ranks agree on what it is"


class SharedExchange:
    """An `ExpertExchange` (silva.models.experts) over ranks on one machine. For one thread.

    All ranks call it for the same layers in the same order. Two exchanges over memory of their own
    are two lanes, in which rounds can overlap (silva.experts.lanes): `begin`, `serve`, `end`.
    """

    def __init__(
        self,
        sizes: BufferSizes,
        memory: OwnMemory,
        members: Sequence[Member],
        experts: Mapping[int, ExpertWeights],
        slots: Mapping[int, NDArray[np.integer]],
        *,
        total: int,
        dead: Collection[int] = (),
        patience_s: float = PATIENCE_S,
        run: Run = run_sorted,
        backend: Backend = "auto",
        at: int = 0,
        whole: int | None = None,
    ) -> None:
        """`members` of all ranks in order, the `dead` left out or not; `experts` of this rank and
        `slots` [ranks, slots] of all ranks by layer; `total` experts in a layer. The buffers begin
        `at` bytes after the beginning of a rank's memory, which has `whole` bytes where there is
        more in it. Raises ServingError when a rank is gone or has other buffers, ValueError where
        `experts` are not those of the slots or of the buffers.
        """
        wire.check(sizes)
        self.dead = set(dead)
        self._at, self._whole = at, sizes.total if whole is None else whole
        _check_members(members, sizes.ranks, self._whole, self.dead)
        self.sizes, self.rank, self.traffic = sizes, memory.member.rank, Traffic()
        self._total, self._patience_s, self._run = total, patience_s, run
        self._dtype = next(iter(experts.values())).gate_up.dtype
        if self._dtype.itemsize != sizes.item_bytes:
            raise ValueError(f"values of {self._dtype} have not {sizes.item_bytes} bytes")
        others = [m for m in members if m.rank not in {self.rank, *self.dead}]
        self._peers = {m.rank: PeerMemory(m) for m in others}
        memories: dict[int, Memory] = {self.rank: memory, **self._peers}
        self._layouts = {n: Layout(m, sizes, self._dtype, at) for n, m in memories.items()}
        self._mine = self._layouts[self.rank]
        self._flags = flags_for(backend)
        self._backend: Backend = backend
        self.rewire(make_moves)
        self.lost: Callable[[Collection[int]], object] = lambda ranks: None
        """Told of ranks that died in a round, once they are excluded."""
        self.gone_on: Callable[[int], bool] = lambda rank: False
        """Whether a rank has left the present pass, so that nothing of it will come any more."""
        self._routes: dict[int, Routes] = {}
        self._experts: dict[int, ExpertWeights] = {}
        self._slots: dict[int, NDArray[np.integer]] = {}
        self._topics: dict[int, Topic] = {}
        self._by_place: dict[int, NDArray[np.int64]] = {}
        for layer, of_layer in experts.items():
            self.rebalance(layer, slots[layer], of_layer)
        self._round = 0
        self._incomplete = torch.zeros(0, dtype=torch.bool)

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertExchange`. Tokens beyond the local batch go in further rounds."""
        self._check(x, experts, weights)
        parts, missing, at = [], [], 0
        while True:
            some = slice(at, at + self.sizes.local_batch)
            at += self.sizes.local_batch
            topic = self._topics[layer]._replace(more=at < len(x))
            sent = self._dispatch(topic, x[some], experts[some])
            others_go_on = self._serve(topic)
            made, lacks = self._combine(sent, weights[some])
            parts.append(made.to(x.dtype))
            missing.append(lacks)
            if at >= len(x) and not others_go_on:
                break
        self._note(torch.cat(missing)[: len(x)])
        return torch.cat(parts)[: len(x)]

    def begin(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Round:
        """The same in three steps, of half a pass: tokens are on their way after this one.

        All ranks take these steps, with at most as many tokens as go in one round, or ValueError.
        """
        self._check(x, experts, weights)
        if len(x) > self.sizes.local_batch:
            raise ValueError(f"{len(x)} tokens do not go in one round")
        topic = self._topics[layer]._replace(half=True)
        return Round(topic, self._dispatch(topic, x, experts), weights)

    def serve(self, begun: Round) -> None:
        """The second step: run this rank's experts on what came."""
        self._serve(begun.topic)

    def end(self, begun: Round) -> Tensor:
        """The last step: the weighted sums [tokens, hidden_size]."""
        made, lacks = self._combine(begun.sent, begun.weights)
        self._note(lacks)
        return made.to(self._dtype)

    def _check(self, x: Tensor, experts: Tensor, weights: Tensor) -> None:
        """Raise ValueError where these do not fit the buffers or each other."""
        if x.shape[1:] != (self.sizes.hidden_size,) or experts.shape[1] > self.sizes.top_k:
            raise ValueError(
                f"x {tuple(x.shape)} to {experts.shape[1]} experts each does not fit the buffers"
            )
        if x.dtype != self._dtype:
            raise ValueError(f"x is of {x.dtype}, the experts are of {self._dtype}")
        if len(experts) != len(x) or weights.shape != experts.shape:
            raise ValueError(
                f"{len(x)} tokens, experts {tuple(experts.shape)} and weights "
                f"{tuple(weights.shape)} do not fit each other"
            )

    def begin_step(self) -> None:
        """Forget which tokens of the step before lacked answers."""
        self._incomplete = torch.zeros(0, dtype=torch.bool)

    @property
    def incomplete(self) -> Tensor:
        """Tokens of this step, bool, that lack an answer in some layer: compute them again.

        Empty while nothing was exchanged. All False unless a rank died or an expert is nowhere.
        """
        return self._incomplete

    def exclude(self, ranks: Collection[int]) -> None:
        """Ranks that are dead: nothing is sent to them, and nobody waits for them any more.

        One that lives all the same learns of it where it waits next, and raises ServingError.
        """
        out = set(ranks) - {self.rank} - self.dead
        if not out:
            return
        for rank in out:
            self._layouts[rank].put_out(self.rank)
        self.dead |= out
        self._routes.clear()

    def admit(self, member: Member) -> None:
        """A new process in the place of a rank that is dead, on all ranks between two passes.

        Raises ServingError when it is gone already, or has other buffers.
        """
        if member.size != self._whole or member.rank not in self.dead:
            raise ServingError(f"rank {member.rank} cannot join the exchange as it is")
        peer = PeerMemory(member)
        self._peers[member.rank] = peer
        self._layouts[member.rank] = Layout(peer, self.sizes, self._dtype, self._at)
        self._mine.forgive(member.rank)
        self.dead.discard(member.rank)
        self._routes.clear()

    @property
    def dtype(self) -> torch.dtype:
        """Of tokens and experts."""
        return self._dtype

    @property
    def round(self) -> int:
        """The number of the last round; that of all ranks is the same in step."""
        return self._round

    def resume(self, number: int) -> None:
        """Go on after round `number`, as all ranks do, between two passes."""
        self._round = number

    def rewire(self, make: MakeMoves) -> None:
        """From now on what this rank sends goes another way, such as silva.experts.delayed."""
        self._moves = make(self._backend, self.rank, self._layouts, self.sizes, self._dtype)

    def rebalance(
        self, layer: int, slots: NDArray[np.integer], experts: ExpertWeights | None = None
    ) -> None:
        """Another placement of one layer, on all ranks between the same two steps.

        `experts` where those of this rank changed. Raises ValueError, and changes nothing, where
        the weights of this rank are not those that `slots` gives it.
        """
        mine = self._experts[layer] if experts is None else experts
        self._by_place[layer] = self._slots_by_place(slots, mine)
        self._slots[layer], self._experts[layer] = slots, mine
        self._topics[layer] = Topic(layer, zlib.crc32(slots.astype("<i8").tobytes()))
        self._routes.pop(layer, None)

    def _slots_by_place(
        self, slots: NDArray[np.integer], experts: ExpertWeights
    ) -> NDArray[np.int64]:
        """The slot of each expert in this rank's weights, in the order of the weights."""
        if slots.shape != (self.sizes.ranks, self.sizes.slots):
            raise ValueError(f"a placement {slots.shape} does not fit the buffers")
        held = slots[self.rank].tolist()
        # A slot that nobody computes would be answered with what lay there before.
        if sorted(expert for expert in held if expert >= 0) != sorted(experts.ids):
            raise ValueError(f"rank {self.rank} holds {experts.ids}, the placement says {held}")
        return np.array([held.index(expert) for expert in experts.ids], np.int64)

    def _route(self, layer: int) -> Routes:
        if layer not in self._routes:
            self._routes[layer] = Routes(self._slots[layer], self._total, self.rank, self.dead)
        return self._routes[layer]

    def _alive(self) -> list[int]:
        return [rank for rank in range(self.sizes.ranks) if rank not in self.dead]

    def _dispatch(self, topic: Topic, x: Tensor, experts: Tensor) -> Sent:
        """Write tokens x into the memory of the ranks that hold their experts."""
        self._round += 1
        routes = self._route(topic.layer)
        sent = self._moves.send(self._alive(), self._round, topic, x, experts, routes)
        away = int(sent.counts.sum() - sent.counts[self.rank].sum())
        self.traffic.tokens += away
        self.traffic.dispatch_bytes += away * self.sizes.dispatch_message
        return sent

    def _serve(self, topic: Topic) -> bool:
        """Run this rank's experts on what came, and answer; whether another rank has more tokens."""
        came, layer = self._came(topic), topic.layer
        if came.ranks:
            order = self._by_place[layer]
            rows = self._moves.gather(came.ranks, came.counts, order)
            totals = torch.from_numpy(came.counts[:, order].sum(axis=0))
            made = self._run(rows, totals, self._experts[layer])
            self._moves.answer(came.ranks, self._round, came.counts, order, made)
            away = int(came.counts.sum())
            if self.rank in came.ranks:
                away -= int(came.counts[came.ranks.index(self.rank)].sum())
            self.traffic.answers += away
            self.traffic.combine_bytes += away * self.sizes.combine_message
        return came.more

    def _came(self, mine: Topic) -> _Came:
        """Wait for the flags of all ranks; who sent tokens, and how many."""
        here = self._arrived(self._alive(), answers=False)
        topics, counts = self._mine.announced(here, self._round)
        for rank, topic in zip(here, topics, strict=True):
            if topic.layer != mine.layer:
                raise OutOfStepError(f"rank {rank} is at layer {topic.layer}, {self.rank} is not")
            if topic.placement != mine.placement:
                raise OutOfStepError(f"ranks {rank} and {self.rank} place experts differently")
            if topic.half != mine.half:
                raise OutOfStepError(f"of ranks {rank} and {self.rank} one splits the pass")
        if (counts.sum(axis=1) > self.sizes.max_tokens).any():
            raise ServingError(f"rank {self.rank} was told of more tokens than fit its buffers")
        more = any(t.more for rank, t in zip(here, topics, strict=True) if rank != self.rank)
        some = np.flatnonzero(counts.any(axis=1))
        if len(some) < len(here):
            here, counts = [here[n] for n in some.tolist()], counts[some]
        return _Came(here, counts, more)

    def _combine(self, sent: Sent, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sums float32 [tokens, hidden_size]; which tokens lack answers, [tokens].

        What lacks counts as nothing. Answers are added in the order of a token's experts, whoever
        gave them.
        """
        asked = np.flatnonzero(sent.counts.sum(axis=1)).tolist()
        silent = sorted(set(asked) - set(self._arrived(asked, answers=True)))
        answers = sent.answers
        if silent:
            of_silent = torch.isin(answers // self.sizes.max_tokens, torch.tensor(silent))
            answers = answers.masked_fill(of_silent, -1)
        return self._moves.combine(answers, weights), (answers < 0).any(dim=1)

    def _arrived(self, ranks: Sequence[int], *, answers: bool) -> list[int]:
        """Sleep until the flags of all of them are here; those whose flags are, the others died."""
        mine = self._mine
        words = {
            rank: mine.answered(rank) if answers else mine.flag(rank, self._round)
            for rank in ranks
            if rank not in self.dead
        }
        died = await_all(
            self._flags,
            words,
            self._round,
            alive=lambda rank: self._peers[rank].alive(),
            patience_s=self._patience_s,
            check=self._check_late,
        )
        if died:
            self.exclude(died)
            self.lost(died)
        return [rank for rank in words if rank not in died]

    def check_out(self) -> None:
        """Raise ServingError when another rank has taken this one for dead."""
        if by := set(self._mine.put_out_by()) - self.dead:
            raise ServingError(f"rank {self.rank} was taken for dead by {sorted(by)}")

    def _check_late(self, late: Sequence[int]) -> None:
        self.check_out()
        if any(map(self.gone_on, late)):
            raise OutOfStepError(f"rank {self.rank} is in a pass that others have left")

    def _note(self, lacks: Tensor) -> None:
        if not len(self._incomplete):
            self._incomplete = torch.zeros(len(lacks), dtype=torch.bool)
        if len(lacks) != len(self._incomplete):
            raise ServingError("tokens of a step changed between its layers")
        self._incomplete = self._incomplete | lacks


def _check_members(members: Sequence[Member], ranks: int, size: int, dead: Collection[int]) -> None:
    """Raise ServingError unless there is memory of this size for each rank, in order."""
    found = [(m.rank, m.size) for m in members if m.rank not in dead]
    if found != [(rank, size) for rank in range(ranks) if rank not in dead]:
        raise ServingError("the ranks of the exchange do not agree on how many or how large it is")

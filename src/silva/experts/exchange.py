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

import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import ServingError
from silva.experts import futex, wire
from silva.experts.layout import Layout, Topic
from silva.experts.memory import Member, OwnMemory, PeerMemory
from silva.experts.routes import Routes
from silva.experts.sizes import BufferSizes
from silva.models.experts import ExpertWeights, run_sorted

LOOK_S = 0.05
"""How often a rank that waits looks whether the other is still alive."""
PATIENCE_S = 10.0
"""After so long without its flag a rank counts as dead, whatever its process does."""


@dataclass
class Traffic:
    """What this rank wrote into the memory of others, flags and counts aside."""

    tokens: int = 0
    dispatch_bytes: int = 0
    answers: int = 0
    combine_bytes: int = 0


@dataclass
class _Round:
    """One round between its stages. Copies of tokens are sent sorted by the place they go to."""

    topic: Topic
    answers: Tensor
    """Where in the buffer of answers that of each copy will be [tokens, top_k]; -1: it is lost."""
    counts: NDArray[np.int64]
    """Copies that this rank sends [ranks, slots]."""


class SharedExchange:
    """An `ExpertExchange` (silva.models.experts) over ranks on one machine. For one thread.

    All ranks call it for the same layers in the same order. Two exchanges over memory of their own
    are two lanes, in which rounds can overlap.
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
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`members` of all ranks in order; `experts` of this rank and `slots` [ranks, slots] of all
        ranks by layer; `total` experts in a layer. Raises ServingError when a rank is gone or has
        other buffers, ValueError where `experts` are not those of the slots or of the buffers.
        """
        if not futex.supported():
            raise ServingError("experts are exchanged in shared memory on Linux on x86-64 alone")
        wire.check(sizes)
        _check_members(members, sizes)
        self.sizes, self.rank, self.traffic = sizes, memory.member.rank, Traffic()
        self._total, self._patience_s = total, patience_s
        self._dtype = next(iter(experts.values())).gate_up.dtype
        if self._dtype.itemsize != sizes.item_bytes:
            raise ValueError(f"values of {self._dtype} have not {sizes.item_bytes} bytes")
        self._mine = Layout(memory, sizes, self._dtype)
        self._peers = {
            m.rank: (p := PeerMemory(m), Layout(p, sizes, self._dtype))
            for m in members
            if m.rank != self.rank
        }
        self.dead: set[int] = set()
        self._routes: dict[int, Routes] = {}
        self._experts: dict[int, ExpertWeights] = {}
        self._slots: dict[int, NDArray[np.integer]] = {}
        self._topics: dict[int, Topic] = {}
        self._by_place: dict[int, list[int]] = {}
        for layer, of_layer in experts.items():
            self.rebalance(layer, slots[layer], of_layer)
        self._round = 0
        self._incomplete = torch.zeros(0, dtype=torch.bool)

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """See `ExpertExchange`. Tokens beyond the local batch go in further rounds."""
        parts, missing, at = [], [], 0
        while True:
            some = slice(at, at + self.sizes.local_batch)
            at += self.sizes.local_batch
            sent = self._dispatch(layer, x[some], experts[some], more=at < len(x))
            others_go_on = self._serve(sent)
            made, lacks = self._combine(sent, weights[some])
            parts.append(made.to(x.dtype))
            missing.append(lacks)
            if at >= len(x) and not others_go_on:
                break
        self._note(torch.cat(missing)[: len(x)])
        return torch.cat(parts)[: len(x)]

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
        """Ranks that are dead: nothing is sent to them, and nobody waits for them any more."""
        self.dead |= set(ranks) - {self.rank}
        self._routes.clear()

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

    def _slots_by_place(self, slots: NDArray[np.integer], experts: ExpertWeights) -> list[int]:
        """The slot of each expert in this rank's weights, in the order of the weights."""
        if slots.shape != (self.sizes.ranks, self.sizes.slots):
            raise ValueError(f"a placement {slots.shape} does not fit the buffers")
        held = slots[self.rank].tolist()
        # A slot that nobody computes would be answered with what lay there before.
        if sorted(expert for expert in held if expert >= 0) != sorted(experts.ids):
            raise ValueError(f"rank {self.rank} holds {experts.ids}, the placement says {held}")
        return [held.index(expert) for expert in experts.ids]

    def _route(self, layer: int) -> Routes:
        if layer not in self._routes:
            self._routes[layer] = Routes(self._slots[layer], self._total, self.rank, self.dead)
        return self._routes[layer]

    def _others(self) -> list[int]:
        """Ranks alive, beginning after this one, so that not all write to the same one first."""
        ranks = self.sizes.ranks
        turn = [(self.rank + n) % ranks for n in range(1, ranks)]
        return [rank for rank in turn if rank not in self.dead]

    def _dispatch(self, layer: int, x: Tensor, experts: Tensor, *, more: bool) -> _Round:
        """Write tokens x into the memory of the ranks that hold their experts."""
        self._round += 1
        topic = self._topics[layer]
        width, top_k = self.sizes.slots, experts.shape[1]
        places = self._route(layer).places(experts).reshape(-1)
        order = places.argsort(stable=True)[int((places < 0).sum()) :]
        counts = places[order].bincount(minlength=self.sizes.ranks * width).numpy()
        by_rank = counts.reshape(-1, width)
        sums = by_rank.sum(axis=1)
        # Beyond its own part of a buffer a rank would write into another's.
        if sums.max() > self.sizes.max_tokens or x.shape[1] != self.sizes.hidden_size:
            raise ValueError(f"x {tuple(x.shape)} to {top_k} experts each does not fit the buffers")
        ends = sums.cumsum()
        rows, encoded = order // top_k, wire.encode(x, self.sizes)
        for rank in (*self._others(), self.rank):
            there = self._mine if rank == self.rank else self._peers[rank][1]
            if sums[rank]:
                mine = rows[ends[rank] - sums[rank] : ends[rank]]
                wire.write(encoded, mine, there.tokens[self.rank])
            there.announce(self.rank, self._round, by_rank[rank], topic, more)
            if rank != self.rank:
                self.traffic.tokens += int(sums[rank])
                self.traffic.dispatch_bytes += int(sums[rank]) * self.sizes.dispatch_message
        # Answers come back in the order in which the copies were sent.
        place = np.repeat(np.arange(len(sums)) * self.sizes.max_tokens - (ends - sums), sums)
        answers = torch.full_like(places, -1)
        answers[order] = torch.from_numpy(place + np.arange(len(place)))
        return _Round(topic, answers.view(len(x), top_k), by_rank)

    def _serve(self, sent: _Round) -> bool:
        """Run this rank's experts on what came, and answer; whether another rank has more tokens."""
        came: dict[int, tuple[Tensor, list[int]]] = {}
        go_on = False
        for rank in (self.rank, *self._others()):
            if not self._arrived(rank, self._mine.flag(rank, self._round), self._round):
                continue
            topic, more, counts = self._mine.announced(rank, self._round)
            if topic.layer != sent.topic.layer:
                raise ServingError(f"rank {rank} is at layer {topic.layer}, {self.rank} is not")
            if topic != sent.topic:
                raise ServingError(f"ranks {rank} and {self.rank} place experts differently")
            go_on = go_on or (more and rank != self.rank)
            if sum(counts):
                slot = self._mine.tokens[rank]
                came[rank] = (wire.read(slot, sum(counts), self._dtype), counts)
        if came:
            self._answer(sent.topic.layer, came)
        return go_on

    def _answer(self, layer: int, came: Mapping[int, tuple[Tensor, list[int]]]) -> None:
        """Gather what came expert by expert, run them all, and write each answer where it belongs."""
        pieces: list[Tensor] = []
        targets: list[Tensor] = []
        totals = []
        offsets = {rank: np.cumsum([0, *counts]).tolist() for rank, (_, counts) in came.items()}
        for slot in self._by_place[layer]:
            totals.append(sum(counts[slot] for _, counts in came.values()))
            for rank, (tokens, counts) in came.items():
                if counts[slot]:
                    start = offsets[rank][slot]
                    here = slice(start, start + counts[slot])
                    there = self._mine if rank == self.rank else self._peers[rank][1]
                    pieces.append(tokens[here])
                    targets.append(there.answers[self.rank][here])
        made = run_sorted(torch.cat(pieces), torch.tensor(totals), self._experts[layer])
        for target, answers in zip(targets, made.split([len(p) for p in pieces]), strict=True):
            target.copy_(answers)
        for rank, (_, counts) in came.items():
            there = self._mine if rank == self.rank else self._peers[rank][1]
            there.answered_all(self.rank, self._round)
            if rank != self.rank:
                self.traffic.answers += sum(counts)
                self.traffic.combine_bytes += sum(counts) * self.sizes.combine_message

    def _combine(self, sent: _Round, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sums float32 [tokens, hidden_size]; which tokens lack answers, [tokens].

        What lacks counts as nothing. Answers are added in the order of a token's experts, whoever
        gave them.
        """
        silent = [
            rank
            for rank in np.flatnonzero(sent.counts.sum(axis=1)).tolist()
            if not self._arrived(rank, self._mine.answered(rank), self._round)
        ]
        lacks = sent.answers < 0
        if silent:
            lacks |= torch.isin(sent.answers // self.sizes.max_tokens, torch.tensor(silent))
        total = torch.zeros(len(weights), self.sizes.hidden_size)
        some = bool(lacks.any())
        for k in range(weights.shape[1]):
            made = self._mine.all_answers[sent.answers[:, k].clamp_min(0)].float()
            if some:
                made[lacks[:, k]] = 0
            total.addcmul_(made, weights[:, k, None])
        return total, lacks.any(dim=1)

    def _arrived(self, rank: int, word: int, value: int) -> bool:
        """Sleep until a word of this rank's memory holds `value`; False when `rank` is dead."""
        deadline_s, gone = 0.0, False
        while rank not in self.dead:
            found = self._mine.word(word)
            if found == value % 2**32:
                return True
            # Only now that the word was looked at again: what a rank wrote before it died counts.
            if gone:
                self.exclude({rank})
                break
            deadline_s = deadline_s or time.monotonic() + self._patience_s
            futex.wait(self._mine.address_of(word), found, LOOK_S)
            if self._mine.word(word) != value % 2**32:
                gone = time.monotonic() > deadline_s or not self._peers[rank][0].alive()
        return False

    def _note(self, lacks: Tensor) -> None:
        if not len(self._incomplete):
            self._incomplete = torch.zeros(len(lacks), dtype=torch.bool)
        if len(lacks) != len(self._incomplete):
            raise ServingError("tokens of a step changed between its layers")
        self._incomplete = self._incomplete | lacks


def _check_members(members: Sequence[Member], sizes: BufferSizes) -> None:
    """Raise ServingError unless there is memory of these sizes for each rank, in order."""
    if [(m.rank, m.size) for m in members] != [(rank, sizes.total) for rank in range(sizes.ranks)]:
        raise ServingError("the ranks of the exchange do not agree on how many or how large it is")

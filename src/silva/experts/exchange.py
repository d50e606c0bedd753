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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.errors import ServingError
from silva.experts import futex, wire
from silva.experts.layout import Layout
from silva.experts.memory import Member, OwnMemory, PeerMemory
from silva.experts.routes import Routes
from silva.experts.sizes import BufferSizes
from silva.models.experts import ExpertWeights, run_grouped, weighted_sum

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
    """One round between its stages: the copies of tokens, sorted by the place they go to."""

    layer: int
    tokens: int
    order: Tensor
    counts: list[list[int]]
    """By rank and slot, of what this rank sends."""
    own: Tensor
    """The copies that stay here."""
    lost: Tensor
    """Copies whose expert is on no rank alive, bool in the order of tokens."""
    own_answers: Tensor | None = None


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
        ranks by layer; `total` experts in a layer. Raises ServingError when a rank is gone.
        """
        wire.check(sizes)
        self.sizes, self.rank, self.traffic = sizes, memory.member.rank, Traffic()
        self._experts, self._slots, self._total = dict(experts), dict(slots), total
        self._patience_s = patience_s
        self._dtype = next(iter(experts.values())).gate_up.dtype
        self._mine = Layout(memory, sizes, self._dtype)
        self._peers = {
            m.rank: (p := PeerMemory(m), Layout(p, sizes, self._dtype))
            for m in members
            if m.rank != self.rank
        }
        self.dead: set[int] = set()
        self._routes: dict[int, Routes] = {}
        self._places = {layer: self._slot_places(layer) for layer in self._experts}
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
            made, lacks = self._combine(sent, experts.shape[1])
            parts.append(weighted_sum(made, weights[some], x.dtype))
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

        `experts` where those of this rank changed.
        """
        self._slots[layer] = slots
        if experts is not None:
            self._experts[layer] = experts
        self._places[layer] = self._slot_places(layer)
        self._routes.pop(layer, None)

    def _slot_places(self, layer: int) -> Tensor:
        """Where in this rank's weights the expert of each slot is; 0 for an empty one."""
        index = {expert: n for n, expert in enumerate(self._experts[layer].ids)}
        held = self._slots[layer][self.rank].tolist()
        return torch.tensor([index[e] if e >= 0 else 0 for e in held])

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
        width, top_k = self.sizes.slots, experts.shape[1]
        places = self._route(layer).places(experts).reshape(-1)
        order = places.argsort(stable=True)
        lost = places < 0
        order = order[int(lost.sum()) :]
        counts = places[order].bincount(minlength=self.sizes.ranks * width)
        by_rank = counts.view(-1, width)
        ends = by_rank.sum(dim=1).cumsum(0).tolist()
        rows, encoded = order // top_k, wire.encode(x, self.sizes)
        table = by_rank.tolist()
        for rank in self._others():
            mine = rows[ends[rank] - sum(table[rank]) : ends[rank]]
            there = self._peers[rank][1]
            wire.write(encoded, mine, there.tokens[self.rank])
            there.announce(self.rank, self._round, table[rank], layer, more)
            self.traffic.tokens += len(mine)
            self.traffic.dispatch_bytes += len(mine) * self.sizes.dispatch_message
        stays = rows[ends[self.rank] - sum(table[self.rank]) : ends[self.rank]]
        own = wire.as_received(encoded, stays, self._dtype)
        return _Round(layer, len(x), order, table, own, lost)

    def _serve(self, sent: _Round) -> bool:
        """Run this rank's experts on what came, and answer; whether another rank has more tokens."""
        came, counts, go_on = [(self.rank, sent.own)], [sent.counts[self.rank]], False
        for rank in self._others():
            if not self._arrived(rank, self._mine.flag(rank, self._round), self._round):
                continue
            layer, more, by_slot = self._mine.announced(rank, self._round)
            if layer != sent.layer:
                raise ServingError(f"rank {rank} is at layer {layer}, rank {self.rank} is not")
            go_on = go_on or more
            if sum(by_slot):
                slot = self._mine.tokens[rank]
                came.append((rank, wire.read(slot, sum(by_slot), self._dtype)))
                counts.append(by_slot)
        rows = torch.cat([tokens for _, tokens in came])
        slots = torch.arange(self.sizes.slots).repeat(len(came))
        places = self._places[sent.layer][slots.repeat_interleave(torch.tensor(counts).view(-1))]
        made = run_grouped(rows, places, self._experts[sent.layer])
        for (rank, _), answers in zip(came, made.split([len(t) for _, t in came]), strict=True):
            if rank == self.rank:
                sent.own_answers = answers
                continue
            self._peers[rank][1].answer(self.rank, self._round, answers)
            self.traffic.answers += len(answers)
            self.traffic.combine_bytes += len(answers) * self.sizes.combine_message
        return go_on

    def _combine(self, sent: _Round, top_k: int) -> tuple[Tensor, Tensor]:
        """Answers [tokens, top_k, hidden_size], and which tokens lack some, bool [tokens]."""
        made = torch.zeros(sent.tokens * top_k, self.sizes.hidden_size, dtype=self._dtype)
        lacks, start = sent.lost, 0
        for rank, by_slot in enumerate(sent.counts):
            here = sent.order[start : start + sum(by_slot)]
            start += len(here)
            if rank == self.rank and sent.own_answers is not None:
                made[here] = sent.own_answers
            elif len(here) and self._answered(rank):
                made[here] = self._mine.answers[rank][: len(here)]
            else:
                lacks[here] = True
        by_token = lacks.view(sent.tokens, top_k)
        return made.view(sent.tokens, top_k, self.sizes.hidden_size), by_token.any(dim=1)

    def _answered(self, rank: int) -> bool:
        return self._arrived(rank, self._mine.answered(rank), self._round)

    def _arrived(self, rank: int, word: int, value: int) -> bool:
        """Sleep until a word of this rank's memory holds `value`; False when `rank` is dead."""
        deadline_s = time.monotonic() + self._patience_s
        while rank not in self.dead:
            found = self._mine.word(word)
            if found == value % 2**32:
                return True
            futex.wait(self._mine.address_of(word), found, LOOK_S)
            late = time.monotonic() > deadline_s
            # What a rank wrote before it died still counts.
            if self._mine.word(word) != value % 2**32 and (
                late or not self._peers[rank][0].alive()
            ):
                self.exclude({rank})
        return False

    def _note(self, lacks: Tensor) -> None:
        if not len(self._incomplete):
            self._incomplete = torch.zeros(len(lacks), dtype=torch.bool)
        if len(lacks) != len(self._incomplete):
            raise ServingError("tokens of a step changed between its layers")
        self._incomplete = self._incomplete | lacks

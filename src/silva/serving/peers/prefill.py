"""A prefill peer: computes prompts, samples one token, and holds the blocks until they are read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from silva.control.fills import fill, filled, give_up, lookups
from silva.control.handover import release
from silva.control.lease import Lease, Leases
from silva.control.request import FinishReason, Plan, Request, Sampled
from silva.control.scheduler import Update, add, pin, unpin
from silva.control.state import State
from silva.serving.engine.grammar import Matcher
from silva.serving.peers.cached import Findings
from silva.serving.peers.computing import ComputingPeer
from silva.serving.wire.messages import AnyMessage, Prefill, Prefilled, Role
from silva.transfer import Piece

HOLD_S = 120.0
"""Longer than any hand-over that is still going on: the front says when it is over."""


class PrefillPeer(ComputingPeer):
    """See the module."""

    role: ClassVar[Role] = "prefill"

    def reset(self) -> None:
        self._leases = Leases()
        self._held: dict[str, Lease] = {}
        self._keys: dict[str, tuple[bytes, ...]] = {}

    def take(self, message: AnyMessage) -> None:
        if not isinstance(message, Prefill):
            raise TypeError(f"a prefill peer was sent {type(message).__name__}")
        request = self.known(message.request)
        self.compile(request, partial(self._add, request))

    def _add(self, request: Request, matcher: Matcher | None) -> None:
        keys = self._keys[request.id] = self.identity.keys(request)
        lookup = bool(self.cache.members)
        try:
            add(self.state, request, keys, hand_over=True, lookup=lookup)
        except ValueError as error:
            self.reject(request.id, str(error))
            return
        self.runner.add(request, matcher)

    def forget(self, inside: str) -> None:
        self._keys.pop(inside, None)
        lease = self._held.pop(inside, None)
        if lease is not None:
            self._leases.revoke(lease.owner)
            release(self.state, inside)
        super().forget(inside)

    def proceed(self, now_s: float) -> None:
        for lease in self._leases.expire(now_s):
            self.reject(lease.resource, "nobody read the blocks in time")
            self.forget(lease.resource)
        for inside, keys in lookups(self.state):
            request = self.requests.get(inside)
            space = request.namespace if request else ""
            self.cache.look(space, keys, partial(self._found, self.state, inside))

    # Blocks from the cache ------------------------------------------------------------------

    # A step that failed starts a new state; what was asked before then ends in the old one.

    def _found(self, state: State, inside: str, findings: Findings) -> None:
        pairs = fill(state, inside, findings.pieces)
        if not pairs:
            self.cache.drop(findings)
            return
        keys = [key for key, _ in pairs]
        self.cache.read(
            [findings.pieces[key] for key in keys],
            [self.memory.block(block) for _, block in pairs],
            partial(self._read, state, inside, keys),
            findings,
        )

    @staticmethod
    def _read(state: State, inside: str, keys: Sequence[bytes], right: Sequence[bool]) -> None:
        good = [key for key, is_right in zip(keys, right, strict=True) if is_right]
        filled(state, inside, good)
        if len(good) < len(keys):
            give_up(state, inside)

    # After a step -----------------------------------------------------------------------------

    def tell(self, plan: Plan, sampled: Sequence[Sampled], done: Update) -> None:
        first = {each.request: each for each in sampled}
        self._offer(plan, dict(done.stored))
        for inside in done.handed:
            now, entry = time.monotonic(), self.state.entries[inside]
            self._held[inside] = self._leases.grant(inside, inside, now, HOLD_S)
            self._prefilled(
                first[inside],
                pieces=self._pieces(inside),
                cached_tokens=entry.cached_tokens,
                started_s=entry.started_s,
                finish=None,
            )
        for end in done.ended:
            self._prefilled(
                first[end.request],
                pieces=(),
                cached_tokens=end.cached_tokens,
                started_s=end.started_s,
                finish=end.reason,
            )
            self.over(end.request)
            self._keys.pop(end.request, None)

    def _pieces(self, inside: str) -> tuple[Piece, ...]:
        size = self.memory.shape.block_bytes
        blocks = self.state.blocks_of(inside)
        return tuple(self.exposed.piece(self.memory.offset(b), size) for b in blocks)

    def _prefilled(
        self,
        first: Sampled,
        *,
        pieces: tuple[Piece, ...],
        cached_tokens: int,
        started_s: float | None,
        finish: FinishReason | None,
    ) -> None:
        request = self.requests.get(first.request)
        if request is None:  # cancelled in mid-step
            return
        now = time.monotonic()
        self.ray.send(
            Prefilled(
                request.id,
                request.attempt,
                token=first.token,
                logprob=first.logprob,
                pieces=pieces,
                cached_tokens=cached_tokens,
                started_s=now if started_s is None else started_s,
                done_s=now,
                finish=finish,
            )
        )

    def _offer(self, plan: Plan, stored: Mapping[bytes, int]) -> None:
        """New full blocks go to the cache, each for the namespace that it was computed in."""
        if not self.cache.members or not stored:
            return
        size = self.state.settings.block_tokens
        for chunk in plan.chunks:
            request = self.requests.get(chunk.request)
            keys = self._keys.get(chunk.request, ())[chunk.start // size : chunk.stop // size]
            blocks = {key: stored[key] for key in keys if key in stored}
            if request is None or not blocks:
                continue
            held = list(blocks.values())
            pin(self.state, held)
            self.cache.offer(request.namespace, blocks, partial(unpin, self.state, held))

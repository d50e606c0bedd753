"""A prefill peer: computes prompts, samples one token, and holds the blocks until they are read.

It does so alone, or leads others that share each of its steps (silva.serving.peers.following).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from silva.control.fills import fill, filled, give_up
from silva.control.lease import Lease, LeaseExpiredError, Leases
from silva.control.request import Request
from silva.errors import ServingError
from silva.models.language import LanguageModel
from silva.serving.engine.grammar import Matcher
from silva.serving.engine.listener import Handed
from silva.serving.peers.cached import Findings
from silva.serving.peers.computing import attempt_id
from silva.serving.peers.leading import LeadingModel
from silva.serving.peers.ranked import RankedPeer
from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import AnyMessage, Hold, Prefill, Prefilled, Role
from silva.transfer import Piece


class PrefillPeer(RankedPeer):
    """See the module."""

    role: ClassVar[Role] = "prefill"

    def __init__(self, start: PeerStart) -> None:
        self._leading: LeadingModel | None = None
        super().__init__(start)
        self._leases = Leases()
        # The front renews between steps only, and none of them is longer than `stuck_s`.
        self._hold_s = 2 * start.config.stuck_s
        self._held: dict[str, Lease] = {}

    def load_model(self, folder: Path, dtype: torch.dtype) -> LanguageModel:
        model = super().load_model(folder, dtype)
        if self.ranked is None:
            return model
        self.ranked = self._leading = LeadingModel(self.ranked, self._piece)
        return self._leading

    def close(self) -> None:
        if self._leading is not None:
            self._leading.close()
        super().close()

    def take(self, message: AnyMessage) -> None:
        match message:
            case Prefill():
                request = self.known(message.request)
                self.compile(request, partial(self._add, request))
            case Hold():
                for name, attempt in message.attempts:
                    self._renew(attempt_id(name, attempt))
            case _:
                raise TypeError(f"a prefill peer was sent {type(message).__name__}")

    def _renew(self, inside: str) -> None:
        lease = self._held.get(inside)
        if lease is not None:
            with suppress(LeaseExpiredError):  # `proceed` ends the attempt
                self._held[inside] = self._leases.renew(lease.id, time.monotonic(), self._hold_s)

    def _add(self, request: Request, matcher: Matcher | None) -> None:
        lookup = bool(self.cache.members)
        try:
            self.engine.add(request, matcher, hand_over=True, lookup=lookup)
        except (ServingError, ValueError) as error:
            self.give_back(request.id, error)

    def forget(self, inside: str) -> None:
        lease = self._held.pop(inside, None)
        if lease is not None:
            self._leases.revoke(lease.owner)
            self.engine.release(inside)
        super().forget(inside)

    def proceed(self, now_s: float) -> None:
        for lease in self._leases.expire(now_s):
            self.give_back(lease.resource, TimeoutError("nobody read the blocks in time"))

    def handed(self, handed: Handed) -> None:
        inside = handed.sampled.request
        request, now = self.requests.get(inside), time.monotonic()
        if handed.finish is None:
            self._held[inside] = self._leases.grant(inside, inside, now, self._hold_s)
        if request is None:
            self.forget(inside)
            return
        self.tell(
            Prefilled(
                request.id,
                request.attempt,
                token=handed.sampled.tokens[0],
                logprob=next(iter(handed.sampled.logprobs), None),
                pieces=tuple(map(self._piece, handed.blocks)),
                cached_tokens=handed.cached_tokens,
                started_s=handed.phases.prefill_start_s or now,
                done_s=now,
                finish=handed.finish,
                draft=handed.sampled.draft,
            )
        )
        if handed.finish is not None:
            self.requests.pop(inside)

    def _piece(self, block: int) -> Piece:
        return self.exposed.piece(self.memory.offset(block), self.memory.shape.block_bytes)

    # The cache ------------------------------------------------------------------------------

    def lookups(self, begun: Sequence[tuple[str, tuple[bytes, ...]]]) -> None:
        for inside, keys in begun:
            request = self.requests.get(inside)
            space, shown = (request.namespace, request.id) if request else ("", "")
            self.cache.look(space, keys, partial(self._found, inside), shown)

    def _found(self, inside: str, findings: Findings) -> None:
        pairs = fill(self.engine.state, inside, findings.pieces)
        if not pairs:
            self.cache.drop(findings)
            return
        keys, blocks = [key for key, _ in pairs], [block for _, block in pairs]
        if self._leading is not None:
            self._leading.mirror.written(blocks)
        self.cache.read(
            [findings.pieces[key] for key in keys],
            [self.memory.block(block) for block in blocks],
            partial(self._read, inside, keys),
            findings,
        )

    def _read(self, inside: str, keys: Sequence[bytes], right: Sequence[bool]) -> None:
        good = [key for key, is_right in zip(keys, right, strict=True) if is_right]
        self.counters["spoilt_transfers"] += len(keys) - len(good)
        filled(self.engine.state, inside, good)
        if len(good) < len(keys):
            give_up(self.engine.state, inside)

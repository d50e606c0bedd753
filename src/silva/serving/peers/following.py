"""A prefill peer that follows another one: a rank that computes its share of the leader's steps.

It has the same blocks with the same latents in memory of its own, and no requests. What it hears of a
pass too late, or cannot take part in, it lends its experts to.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress
from typing import ClassVar, cast

import torch
from torch import Tensor

from silva.experts.group import TooFewError
from silva.experts.shape import Pass
from silva.experts.stages import StagedModel
from silva.kernels import Backend
from silva.serving.peers.parts import pass_of_parts
from silva.serving.peers.ranked import RankedPeer
from silva.serving.peers.start import PeerStart
from silva.serving.wire.messages import AnyMessage, Role, SharedPass
from silva.serving.wire.star import address
from silva.transfer import Piece

log = logging.getLogger("silva.peer")


class FollowingPeer(RankedPeer):
    """See the module."""

    role: ClassVar[Role] = "prefill"

    def __init__(self, start: PeerStart) -> None:
        self._passes: deque[SharedPass] = deque()
        self._told = True
        """Whether to wait for what the leader says of a pass that others vote for."""
        self._hidden: tuple[int, Tensor] | None = None
        """What the last pass of the model came to, and the number of the pass after it."""
        super().__init__(start)

    def own_address(self) -> str:
        """Another one for each process: what is sent to a former one is not taken for ours."""
        return address(self.start.folder, self.start.identity.replace("/", "-"))

    def take(self, message: AnyMessage) -> None:
        match message:
            case SharedPass():
                self._passes.append(message)
                self._told = True
            case _:
                raise TypeError(f"a peer that follows was sent {type(message).__name__}")

    def proceed(self, now_s: float) -> None:
        """Nothing goes on between passes."""

    def step(self) -> bool:
        """The pass that the next vote is for, if this peer was told of it."""
        while self._passes:
            told = self._passes.popleft()
            if self.ranked is not None and told.number == self.ranked.group.number:
                with suppress(TooFewError):  # the leader hears it too
                    self._share(told)
                return True
            log.info("a pass is over that this peer was told of")
        return False

    def joins(self) -> bool:
        """Not before what the leader says of its pass has come: it was sent before anybody voted."""
        assert self.ranked is not None
        if self._told and self.ranked.group.wanted() is not Pass.NONE:
            self._told = False  # if nothing has come by the next turn it is not waited for
            return False
        return True

    def _share(self, told: SharedPass) -> None:
        """Compute a pass with the leader. Raises TooFewError, and ServingError as `compute` does."""
        assert self.ranked is not None and isinstance(self.ranked.model, StagedModel)
        before, self._hidden = self._hidden, None
        if not self._read(told.pieces) or (
            told.draft and (before is None or before[0] != told.step)
        ):
            self.ranked.group.take_part()
            return
        step, table = pass_of_parts(told.parts)
        backend = cast(Backend, self.start.config.kernels)
        attend = step.attention(table, self.memory, self.start.threads, backend)
        tokens, positions = torch.from_numpy(step.tokens), torch.from_numpy(step.positions)
        self.ranked.model.steps, start_s = told.step, time.monotonic()
        with torch.inference_mode():
            if told.draft and before is not None:
                self.ranked.draft(before[1], tokens, positions, attend)
            else:
                made = self.ranked.hidden(tokens, positions, attend)
                self._hidden = told.step + 1, made
        self._note(time.monotonic() - start_s, steps=not told.draft)

    def _note(self, seconds: float, steps: int) -> None:
        """Show it as one's own: of what lends only experts the leader's steps tell."""
        spent = self.engine.spent
        spent.steps += steps
        spent.step_s += seconds
        spent.execute_s += seconds
        spent.model_s += seconds

    def _read(self, pieces: tuple[tuple[int, Piece], ...]) -> bool:
        """Whether all that this peer lacks is here now."""
        targets = [self.memory.block(block) for block, _ in pieces]
        errors = self.transfer.read_many([piece for _, piece in pieces], targets)
        failed = [error for error in errors if error is not None]
        if failed:
            log.warning("%d blocks cannot be read: %s", len(failed), failed[0])
        return not failed

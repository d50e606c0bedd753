"""Step times of the model of the machine for the scheduler: tables of it, and values between them.

`silva.control` asks for the seconds of a step many times a second; a table over batch and length
answers in microseconds. Between its points it is linear, beyond them it goes on as at the edge.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

from silva.supernode.curve import Curve, Piece, pieces
from silva.supernode.decode import decode_step
from silva.supernode.prefill import prefill_step
from silva.supernode.profile import Profile
from silva.supernode.system import System
from silva.supernode.workload import DecodeLoad, PrefillLoad

_BATCHES = (1.0, 4.0, 8.0, 16.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0)
_LENGTHS = (0.0, 1024.0, 4096.0, 16_384.0, 65_536.0)
_INNER = _LENGTHS[1:-1]
_TOKENS = (64.0, 256.0, 1024.0, 4096.0, 8192.0, 16_384.0, 32_768.0)


class DecodeTimes:
    """Seconds for one token of every request that decodes on one instance.

    A step with a draft gives 1 + acceptance tokens; the scheduler's step is one token's share of
    it. Where an instance computes prompts as well, their time is added.
    """

    def __init__(
        self, system: System, load: DecodeLoad, packages: float, prefill: PrefillTimes | None = None
    ) -> None:
        self.packages, self.prefill = packages, prefill
        self.rows = [Curve(_BATCHES, _decode_row(system, load, length)) for length in _LENGTHS]
        self._columns: dict[int, tuple[Piece, ...]] = {}
        """Pieces over the length, of batches that were asked for: the same few come again."""

    def seconds(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        """Seconds of a step with so much work."""
        total = 0.0
        if decoding:
            column, length = self._columns.get(decoding), context_tokens / decoding
            if column is None:
                column = self._columns[decoding] = self._column(decoding / self.packages)
            low, span, below, rise = column[bisect_right(_INNER, length)]
            total = below + (length - low) / span * rise
        if prefill_tokens and self.prefill is not None:
            total += self.prefill.seconds(0, 0, prefill_tokens)
        return total

    def _column(self, batch: float) -> tuple[Piece, ...]:
        values = [row.at(batch) for row in self.rows]
        return pieces(_LENGTHS, values)


class PrefillTimes:
    """Seconds of a batch of prompts on one instance, for prompts of one mean length."""

    def __init__(self, system: System, load: PrefillLoad, packages: float) -> None:
        self.packages = packages
        profile = _profile_of(system, system.prefill.dies)
        if profile is not None:
            times = [profile.prompt_s(tokens, load.prompt_len) for tokens in _TOKENS]
        else:
            times = [
                prefill_step(system, replace(load, tokens_per_npu=tokens)).first_token_s
                for tokens in _TOKENS
            ]
        self.curve = Curve(_TOKENS, times)

    def seconds(self, decoding: int, context_tokens: int, prefill_tokens: int) -> float:
        """Seconds of a step that computes so many tokens of prompts."""
        return self.curve.at(prefill_tokens / self.packages) if prefill_tokens else 0.0


def _decode_row(system: System, load: DecodeLoad, length: float) -> list[float]:
    """Time a token over the batch, with or without microbatches, whichever is faster."""
    profile = _profile_of(system, system.decode.dies)
    if profile is not None:
        return [profile.decode_s(batch, length) for batch in _BATCHES]
    row = []
    for batch in _BATCHES:
        asked = replace(load, batch_per_npu=batch, kv_len=length, output_len=0.0)
        options = {load.microbatch, False}
        row.append(min(decode_step(system, replace(asked, microbatch=on)).tpot_s for on in options))
    return row


def _profile_of(system: System, dies: int) -> Profile | None:
    """What was measured of this very model on this machine; of engines on one die."""
    profile = system.machine.profile
    return profile if dies == 1 and profile and profile.steps.model == system.model else None

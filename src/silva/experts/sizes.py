"""How large the buffers of an exchange are: fixed before the first step, by the published formula.

``buffer = ranks x max_tokens x msg_size``, ``max_tokens = local_batch x min(top_k, slots)``
(arXiv 2506.12708, section 4.2.1): for a token has at most so many of its experts on one rank. There
are two, one for tokens on the way out and one for the answers, so that a fast rank may answer while
a slow one still reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Wire = Literal["exact", "int8"]
"""exact: tokens in the model's type. int8: one byte a value, and a scale beside it."""

SCALE_BYTES = 512
"""A message's scale is padded to this, as in the published layout: messages stay aligned."""
LINE_BYTES = 64
"""Words that different ranks write lie on different lines of the processors' caches."""


@dataclass(frozen=True)
class BufferSizes:
    """Sizes of one rank's memory, in bytes unless the name says otherwise.

    `local_batch` is how many tokens a rank sends at most in one round, `slots` how many experts a
    rank holds, `item_bytes` the size of one value of the model.
    """

    ranks: int
    local_batch: int
    top_k: int
    slots: int
    hidden_size: int
    item_bytes: int
    wire: Wire = "exact"

    @property
    def max_tokens(self) -> int:
        """Messages that one rank can send another in one round."""
        return self.local_batch * min(self.top_k, self.slots)

    @property
    def dispatch_message(self) -> int:
        """One token on its way to an expert."""
        if self.wire == "int8":
            return self.hidden_size + SCALE_BYTES
        return self.hidden_size * self.item_bytes

    @property
    def combine_message(self) -> int:
        """One expert's answer, always exact."""
        return self.hidden_size * self.item_bytes

    @property
    def dispatch(self) -> int:
        """The buffer of tokens that arrive."""
        return self.ranks * self.max_tokens * self.dispatch_message

    @property
    def combine(self) -> int:
        """The buffer of answers that arrive."""
        return self.ranks * self.max_tokens * self.combine_message

    @property
    def line(self) -> int:
        """Flag, topic, placement, and a count for each slot, from one rank for one round."""
        return -(-4 * (3 + self.slots) // LINE_BYTES) * LINE_BYTES

    @property
    def control(self) -> int:
        """Flags and counts: two rounds' of tokens, one of answers."""
        return self.ranks * (2 * self.line + LINE_BYTES)

    @property
    def total(self) -> int:
        """All of one rank's memory."""
        return self.control + self.dispatch + self.combine

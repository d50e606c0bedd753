"""What a token looks like on the wire: exact, or quantised before it is sent.

int8 is early quantisation (arXiv 2506.12708, section 4.2.1): one symmetric scale a token,
``x = q * scale``, beside the data in the same message. Answers are always exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from silva.errors import ConfigError
from silva.experts.sizes import BufferSizes


class Encoded(NamedTuple):
    """Tokens ready to be sent: data [tokens, hidden_size], scale float32 [tokens, 1] or None."""

    data: Tensor
    scale: Tensor | None


class Slot(NamedTuple):
    """Views of a run of messages in memory, to write or to read; scale only on the int8 wire."""

    data: Tensor
    scale: Tensor | None


def check(sizes: BufferSizes) -> None:
    """Raise ConfigError where messages of these sizes cannot be laid out."""
    if sizes.wire == "int8" and sizes.hidden_size % 4:
        raise ConfigError(
            f"a hidden size of {sizes.hidden_size} leaves scales unaligned",
            remedy="send exact tokens (Spread.wire)",
        )


def encode(x: Tensor, sizes: BufferSizes) -> Encoded:
    """Tokens x [tokens, hidden_size] as they are sent."""
    if sizes.wire == "exact":
        return Encoded(x, None)
    x = x.float()
    scale = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / 127
    # What is no number makes its scale none, and so the whole token that is read.
    return Encoded((x / scale).round().nan_to_num(0.0).to(torch.int8), scale)


def lay_out(messages: Tensor, sizes: BufferSizes, dtype: torch.dtype) -> Slot:
    """Views of raw messages, uint8 [n, dispatch_message], for tokens of `dtype`."""
    if sizes.wire == "exact":
        return Slot(messages.view(dtype), None)
    data, after = sizes.hidden_size, sizes.hidden_size + 4
    return Slot(messages[:, :data].view(torch.int8), messages[:, data:after].view(torch.float32))


def write(encoded: Encoded, rows: Tensor, slot: Slot) -> None:
    """Copy the tokens at `rows` into the first messages of a slot."""
    torch.index_select(encoded.data, 0, rows, out=slot.data[: len(rows)])
    if encoded.scale is not None and slot.scale is not None:
        slot.scale[: len(rows)] = encoded.scale[rows]


def read(slot: Slot, count: int, dtype: torch.dtype) -> Tensor:
    """The first `count` messages of a slot as tokens [count, hidden_size] of `dtype`."""
    if slot.scale is None:
        return slot.data[:count]
    return (slot.data[:count].float() * slot.scale[:count]).to(dtype)

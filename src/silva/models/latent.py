"""Multi-head latent attention (arXiv 2405.04434, section 2.1): one small latent stands for all heads.

Of each token only ``[c; k_R]`` is remembered, `rank` values that keys and values of all heads are
made from and `rope` values that carry the position: 512 + 64 in DeepSeek-V3, once for all heads.

    plain       k_h = [W_UK,h c; k_R],  v_h = W_UV,h c,  softmax(scale q_h k_h^T) v_h
    absorbed    q'_h = [W_UK,h^T q_h; q_R],  W_UV,h softmax(scale q'_h [c; k_R]^T) c

Both are the same function. The plain form expands every latent once and then costs little a query:
prefill. The absorbed one expands nothing: decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.kernels.paged_reference import mix_latents

Form = Literal["auto", "plain", "absorbed"]
"""Of attention to one sequence; auto takes what costs fewer multiplications."""


@dataclass(frozen=True)
class LatentHeads:
    """What one layer's heads make of latents: `up` is [heads, nope + value, rank], W_UK over W_UV.

    `nope` is how many of a query's values carry no position, `scale` that of the softmax.
    """

    up: Tensor
    nope: int
    scale: float

    @property
    def rank(self) -> int:
        """Values of a latent that keys and values are made from; the rest carries the position."""
        return self.up.shape[2]

    @property
    def value_size(self) -> int:
        """Values that one head gives for one token."""
        return self.up.shape[1] - self.nope

    def absorb(self, q: Tensor) -> Tensor:
        """Queries [tokens, heads, nope + rope] as they meet latents [tokens, heads, rank + rope]."""
        met = torch.einsum("thn,hnr->thr", q[..., : self.nope], self.up[:, : self.nope])
        return torch.cat((met, q[..., self.nope :]), dim=-1)

    def project(self, mixed: Tensor) -> Tensor:
        """Mixtures of latents [tokens, heads, rank] -> values [tokens, heads, value_size]."""
        return torch.einsum("thr,hvr->thv", mixed, self.up[:, self.nope :])

    def expand(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [keys, rank + rope] -> keys [keys, heads, nope + rope], values [.., value_size]."""
        made = torch.einsum("kr,hdr->khd", latents[:, : self.rank], self.up)
        position = latents[:, None, self.rank :].expand(-1, made.shape[1], -1)
        return torch.cat((made[..., : self.nope], position), dim=-1), made[..., self.nope :]

    def break_even(self, rope: int) -> float:
        """Queries of a sequence from which on the plain form takes fewer multiplications."""
        saved = 2 * self.rank + rope - (self.up.shape[1] + rope)
        return self.rank * self.up.shape[1] / saved if saved > 0 else float("inf")


class LatentAttend(Protocol):
    """Causal latent attention of one step's tokens; what `Attend` is to attention with heads' keys.

    Made anew, or told anew what the step holds, before each step; the model then calls it once a
    layer, layers in ascending order. The layer of a draft module comes after those of the model.
    """

    def __call__(self, layer: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
        """Write `latent` of this step to the memory of `layer`, then attend.

        q [tokens, heads, nope + rope], latent [tokens, rank + rope], positions already applied to
        the last `rope` values of both. Returns [tokens, heads, value_size], contiguous. A token at
        position p sees the positions 0 to p of its sequence. The inputs may be views with strides.
        """
        ...


class Halves(NamedTuple):
    """A step in two parts: its first `rows` tokens and the others, each with what attends for it.

    No sequence is in both.
    """

    rows: int
    first: LatentAttend
    second: LatentAttend


@runtime_checkable
class DivisibleLatents(LatentAttend, Protocol):
    """A `LatentAttend` of sequences that can be computed apart, layer by layer."""

    def halves(self) -> Halves | None:
        """Two parts with about as many tokens each; None where there is but one sequence."""
        ...


class CausalLatents:
    """The plain memory: whole sequences one after the other, from position 0, nothing remembered."""

    def __init__(self, lengths: Sequence[int], form: Form = "auto") -> None:
        """`lengths` of the sequences in tokens; they sum up to the tokens of the step."""
        self._lengths, self._form = list(lengths), form

    def __call__(self, layer: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
        pieces = zip(q.split(self._lengths), latent.split(self._lengths), strict=True)
        return torch.cat([attend_latents(*piece, heads, self._form) for piece in pieces])


def attend_latents(q: Tensor, latents: Tensor, heads: LatentHeads, form: Form = "auto") -> Tensor:
    """Attention of the last ``len(q)`` tokens of one sequence to all its ``len(latents)`` tokens.

    q [queries, heads, nope + rope], latents [keys, rank + rope] -> [queries, heads, value_size].
    """
    if form == "auto":
        rope = latents.shape[1] - heads.rank
        form = "plain" if len(q) > heads.break_even(rope) else "absorbed"
    return _plain(q, latents, heads) if form == "plain" else _absorbed(q, latents, heads)


def _plain(q: Tensor, latents: Tensor, heads: LatentHeads) -> Tensor:
    k, v = heads.expand(latents)
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=_seen(len(q), len(latents)),
        scale=heads.scale,
    )
    return out[0].transpose(0, 1).contiguous()


def _absorbed(q: Tensor, latents: Tensor, heads: LatentHeads) -> Tensor:
    mixed = mix_latents(heads.absorb(q), latents, heads.rank, heads.scale)
    return heads.project(mixed).contiguous()


def _seen(queries: int, keys: int) -> Tensor:
    """Which keys a query sees, bool [queries, keys]; the queries end where the keys end."""
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)

"""DeepSeek-shaped language models: V3, R1, V2 and V2-Lite, Moonlight (arXiv 2412.19437).

    x = E[tokens]
    x = x + Wo MLA(q, [c; k_R])      q = Wq_up N(Wq_down N(x)),  [c; k_R] = Wkv_down N(x), c = N(c)
    x = x + FFN(N(x))                SwiGLU in the first layers; then the shared experts' SwiGLU and
                                     sum_k w_k E_k(N(x)) over the experts that the gate chooses
    logits = Whead N(x)

    draft of the token after next:   h' = Wproj [N(E[next]); N(h)], one more layer, N, Whead

The model keeps nothing from step to step: latents are the `LatentAttend`'s part, experts the
`ExpertExchange`'s. Attention comes in three stages so that ranks can share its work (down, heads,
output): all but the middle one, the `HeadStage`, treat each token by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.models.deepseek_config import DeepseekConfig
from silva.models.experts import ExpertExchange
from silva.models.gate import choose
from silva.models.latent import LatentAttend, LatentHeads
from silva.models.llama import Linear
from silva.models.yarn import Rotation, rotate_pairs, rotation_at

LATENT_NORM_EPS = 1e-6
"""Of the norms of latents, whatever `rms_norm_eps` says of the others."""


@dataclass(frozen=True)
class AttentionWeights:
    """One layer's attention. Without a query latent `q_down` and `q_norm` are None."""

    norm: Tensor
    q_down: Linear | None
    q_norm: Tensor | None
    q_up: Linear
    kv_down: Linear
    kv_norm: Tensor
    heads: LatentHeads
    output: Linear


@dataclass(frozen=True)
class MlpWeights:
    """``down (silu(g) * u)`` with ``[g; u] = gate_up x``."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class GateWeights:
    """float32: weight [experts, hidden_size], bias [experts] where the gate has one."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class LayerWeights:
    """One layer. `mlp` is that of a dense layer or of the shared experts, None without these."""

    attention: AttentionWeights
    mlp_norm: Tensor
    mlp: MlpWeights | None
    gate: GateWeights | None


@dataclass(frozen=True)
class DraftWeights:
    """A module that predicts the token after next; embedding and head are the model's own."""

    token_norm: Tensor
    hidden_norm: Tensor
    project: Linear
    layer: LayerWeights
    norm: Tensor


@dataclass(frozen=True)
class DeepseekWeights:
    """Everything but the routed experts. head [vocab_size, hidden_size]."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Tensor
    drafts: tuple[DraftWeights, ...] = ()


class HeadStage(Protocol):
    """The stage of attention in which tokens meet: all heads in one place, or shared by ranks."""

    def __call__(self, layer: int, weights: AttentionWeights, q: Tensor, latent: Tensor) -> Tensor:
        """What all heads say to each token [tokens, heads * value_size].

        q [tokens, q_rank], or [tokens, hidden_size] without a query latent; latent [tokens, rank +
        rope], positions already applied to its last `rope` values.
        """
        ...


class WholeHeads:
    """A `HeadStage` with all heads in one place."""

    def __init__(self, model: Deepseek, rotation: Rotation, attend: LatentAttend) -> None:
        """`rotation` of the step's tokens."""
        self._model, self._rotation, self._attend = model, rotation, attend

    def __call__(self, layer: int, weights: AttentionWeights, q: Tensor, latent: Tensor) -> Tensor:
        up = self._model.linear(q, f"layers.{layer}.attention.q_up", weights.q_up)
        made = queries(up, self._rotation, self._model.config)
        return self._attend(layer, made, latent, weights.heads).flatten(1)


@dataclass
class Flow:
    """Tokens on their way through layers: those of a pass, or of half of one."""

    x: Tensor
    """[tokens, hidden_size], as the last layer left it."""
    rotation: Rotation
    heads: HeadStage
    layers: Sequence[tuple[int, LayerWeights]]
    """By number."""
    norm: Tensor
    """Of what leaves the last one."""


class Deepseek:
    """A frozen DeepSeek-shaped model: a `LanguageModel` whose memory is a `LatentAttend`.

    Autograd is the caller's choice: serving calls it under `torch.inference_mode`.
    """

    def __init__(
        self,
        config: DeepseekConfig,
        weights: DeepseekWeights,
        exchange: ExpertExchange,
        *,
        name: str,
        digest: str,
    ) -> None:
        """`digest` is that of the weights' content, all experts among it, and of the shape."""
        self.config, self.weights, self.exchange = config, weights, exchange
        self.name, self.digest = name, digest

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embedding.dtype

    def hidden(self, tokens: Tensor, positions: Tensor, attend: LatentAttend) -> Tensor:
        """Normalised last hidden states [tokens, hidden_size]; tokens, positions: int64 [tokens]."""
        rotation = self.rotation(positions)
        return self.hidden_by(tokens, rotation, WholeHeads(self, rotation, attend))

    def hidden_by(self, tokens: Tensor, rotation: Rotation, heads: HeadStage) -> Tensor:
        """`hidden` of tokens whose heads may be elsewhere; `rotation` is that of these tokens."""
        return self._through(self.flow(tokens, rotation, heads))

    def flow(self, tokens: Tensor, rotation: Rotation, heads: HeadStage) -> Flow:
        """`hidden_by` before its first layer."""
        x = F.embedding(tokens, self.weights.embedding)
        layers = tuple(enumerate(self.weights.layers))
        return Flow(x, rotation, heads, layers, self.weights.norm)

    def rotation(self, positions: Tensor) -> Rotation:
        """By which queries and keys at these positions are turned."""
        return rotation_at(positions, self.config.rope, self.config.rope_size, self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, hidden_size] -> float32 [n, vocab_size]."""
        return F.linear(hidden, self.weights.head).float()

    def draft(
        self, hidden: Tensor, tokens: Tensor, positions: Tensor, attend: LatentAttend
    ) -> Tensor:
        """Hidden states whose logits are of the token after next [tokens, hidden_size].

        hidden: what `hidden` gave at `positions`; tokens: the ones that follow these, at
        ``positions + 1``. The module's latents lie in the layer after the model's, at `positions`.
        """
        rotation = self.rotation(positions)
        stage = WholeHeads(self, rotation, attend)
        return self.draft_by(hidden, tokens, rotation, stage)

    def draft_by(
        self, hidden: Tensor, tokens: Tensor, rotation: Rotation, heads: HeadStage
    ) -> Tensor:
        """`draft` of tokens whose heads may be elsewhere; `rotation` is that of these tokens."""
        return self._through(self.draft_flow(hidden, tokens, rotation, heads))

    def draft_flow(
        self, hidden: Tensor, tokens: Tensor, rotation: Rotation, heads: HeadStage
    ) -> Flow:
        """`draft_by` before its layer."""
        module = self.weights.drafts[0]
        known = self.norm(F.embedding(tokens, self.weights.embedding), module.token_norm)
        x = linear(torch.cat((known, self.norm(hidden, module.hidden_norm)), -1), module.project)
        return Flow(x, rotation, heads, ((self.config.layers, module.layer),), module.norm)

    def _through(self, flow: Flow) -> Tensor:
        for n, layer in flow.layers:
            self.attention(n, layer, flow)
            flow.x = flow.x + self._mlp(n, layer, self.norm(flow.x, layer.mlp_norm))
        return self.norm(flow.x, flow.norm)

    def attention(self, n: int, layer: LayerWeights, flow: Flow) -> None:
        """The first half of a layer."""
        weights, at = layer.attention, f"layers.{n}.attention"
        q, latent = self._down(at, weights, self.norm(flow.x, weights.norm), flow.rotation)
        said = flow.heads(n, weights, q, latent)
        flow.x = flow.x + self.linear(said, f"{at}.output", weights.output)

    def linear(self, x: Tensor, name: str, pieces: Linear) -> Tensor:
        """One of the attention's linear maps of x [tokens, in]: ``layers.0.attention.q_down``, ...

        Its name is for those who add something to it.
        """
        return linear(x, pieces)

    def _down(
        self, at: str, weights: AttentionWeights, x: Tensor, rotation: Rotation
    ) -> tuple[Tensor, Tensor]:
        """What queries are made from [tokens, q_rank or hidden_size], and latents [.., 576]."""
        c = self.config
        q = x
        if weights.q_down is not None and weights.q_norm is not None:
            q = _latent_norm(self.linear(x, f"{at}.q_down", weights.q_down), weights.q_norm)
        kv = self.linear(x, f"{at}.kv_down", weights.kv_down)
        position = rotate_pairs(kv[:, None, c.kv_rank :], rotation, c.interleaved)[:, 0]
        return q, torch.cat((_latent_norm(kv[:, : c.kv_rank], weights.kv_norm), position), dim=-1)

    def _mlp(self, n: int, layer: LayerWeights, x: Tensor) -> Tensor:
        if layer.gate is None:
            return swiglu(layer.mlp, x)
        experts, weights = choose(x, layer.gate.weight, layer.gate.bias, self.config.gate)
        return self.exchange(n, x, experts, weights) + swiglu(layer.mlp, x)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """``N(x)``, over the last axis."""
        return F.rms_norm(x, weight.shape, weight, self.config.norm_eps)


def queries(up: Tensor, rotation: Rotation, c: DeepseekConfig) -> Tensor:
    """Queries with positions applied [tokens, heads, nope_size + rope_size].

    up [tokens, heads * (nope_size + rope_size)]: what the projection up makes, of any heads.
    """
    q = up.unflatten(-1, (-1, c.nope_size + c.rope_size))
    turned = rotate_pairs(q[..., c.nope_size :], rotation, c.interleaved)
    return torch.cat((q[..., : c.nope_size], turned), dim=-1)


def linear(x: Tensor, pieces: Linear) -> Tensor:
    """``W x + b`` of x [tokens, in], the pieces of W one below the other."""
    made = [F.linear(x, weight, bias) for weight, bias in pieces]
    return made[0] if len(made) == 1 else torch.cat(made, dim=-1)


def swiglu(weights: MlpWeights | None, x: Tensor) -> Tensor:
    """What a dense layer or the shared experts make of x [tokens, hidden_size]; zeros without."""
    if weights is None:
        return torch.zeros_like(x)
    gate, up = linear(x, weights.gate_up).chunk(2, dim=-1)
    return linear(F.silu(gate) * up, weights.down)


def _latent_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, LATENT_NORM_EPS)

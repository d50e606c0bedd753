"""A Llama-shaped model with low-rank pairs on the projections of its attention.

Modules are named as in Hugging Face files, ``layers.0.self_attn.q_proj`` and so on, whether the model
holds queries, keys and values in one matrix or in three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from silva.adapters.tiers import AdapterPath
from silva.errors import ModelError
from silva.models.adapted import adaptation_to
from silva.models.layers import Adaptation, adapted
from silva.models.llama import Llama

_QKV = ("q_proj", "k_proj", "v_proj")
Projection = tuple[Tensor, Tensor | None]
"""Weight [out, in] and bias [out] of one module."""


class AdaptedLlama(Llama):
    """`model` with one adaptation. Its weights are the model's own; only what is adapted is not."""

    def __init__(self, model: Llama, adaptation: Adaptation) -> None:
        super().__init__(model.config, model.weights, name=model.name, digest=model.digest)
        self._adaptation = adaptation
        touched = {*adaptation.merged, *adaptation.branches}
        self._parts = {
            linear: parts
            for linear, parts in attention_parts(model)
            if touched & {module for module, _ in parts}
        }

    def linear(self, x: Tensor, name: str) -> Tensor:
        """See `Llama`. One product a module where any module of the linear map is adapted."""
        how = self._adaptation
        parts = self._parts.get(name)
        if parts is None:
            pieces = [(name, piece) for piece in self.weights.linears[name]]
        else:
            pieces = parts
        found = [adapted(x, weight, bias, module, how) for module, (weight, bias) in pieces]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def attention_parts(model: Llama) -> Iterator[tuple[str, list[tuple[str, Projection]]]]:
    """Every linear map of the attention by silva's name, and the modules that it consists of."""
    c, linears = model.config, model.weights.linears
    heads = [c.heads * c.head_size, c.kv_heads * c.head_size, c.kv_heads * c.head_size]
    for n in range(c.layers):
        at = f"layers.{n}.self_attn."
        pieces: list[Projection] = list(linears[f"layers.{n}.attention.qkv"])
        if len(pieces) == 1:
            weight, bias = pieces[0]
            biases: Sequence[Tensor | None] = [None] * 3 if bias is None else bias.split(heads)
            pieces = list(zip(weight.split(heads), biases, strict=True))
        named = [(at + part, piece) for part, piece in zip(_QKV, pieces, strict=True)]
        yield f"layers.{n}.attention.qkv", named
        output = f"layers.{n}.attention.output"
        yield output, [(f"{at}o_proj", linears[output][0])]


def attention_weights(model: Llama, projections: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights [out, in] by module of the projections named, layer by layer."""
    found = {m: weight for _, parts in attention_parts(model) for m, (weight, _) in parts}
    layers = range(model.config.layers)
    names = [f"layers.{n}.self_attn.{part}" for n in layers for part in projections]
    return {name: found[name] for name in names}


def adaptation_of_llama(path: AdapterPath, model: Llama, *, merged: bool) -> Adaptation:
    """What the tiers of `path` add to `model` (`silva.models.adapted.adaptation_to`)."""
    weights = attention_weights(model, (*_QKV, "o_proj"))

    def weight_of(module: str) -> Tensor:
        if module not in weights:
            raise ModelError(
                f"the model has no projection {module[:100]!r}",
                remedy="the adapters were trained on a model of another shape",
            )
        return weights[module]

    return adaptation_to(path, weight_of, merged=merged)

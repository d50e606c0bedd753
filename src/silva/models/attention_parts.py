"""The projections of a language model's attention that low-rank pairs can sit on.

Modules are named as in Hugging Face files, ``layers.0.self_attn.q_proj`` and so on. A linear map of
silva's may consist of several: a Llama may hold queries, keys and values in one matrix.

    Llama-shaped      q_proj, k_proj, v_proj, o_proj
    latent attention  q_a_proj and q_b_proj, or q_proj without a query latent; kv_a_proj_with_mqa, which
                      makes the latents; o_proj

What expands latents (kv_b_proj) is not among them: attention in its absorbed form multiplies queries
by it, which would have to differ from request to request. Pairs on kv_a_proj_with_mqa change the
latents themselves, so both forms of attention serve them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from silva.errors import ModelError
from silva.models.deepseek import Deepseek
from silva.models.language import LanguageModel
from silva.models.llama import Llama

Projection = tuple[Tensor, Tensor | None]
"""Weight [out, in] and bias [out] of one module."""
Parts = list[tuple[str, Projection]]
"""The modules of one linear map, in the order of its outputs."""

Adaptable = Llama | Deepseek

_QKV = ("q_proj", "k_proj", "v_proj")


def adaptable(model: LanguageModel) -> Adaptable:
    """`model`, if it has one of the two shapes above, whole and in this process. Raises ModelError."""
    if isinstance(model, Llama | Deepseek):
        return model
    raise ModelError(
        "adapters attach to attention as Llama and DeepSeek have it, whole and in one process",
        where=model.name,
        remedy="give a model of the type llama, mistral, qwen2, qwen3, deepseek_v2 or deepseek_v3",
    )


def attention_parts(model: Adaptable) -> Iterator[tuple[str, Parts]]:
    """Every linear map of the attention by silva's name, and the modules that it consists of."""
    return _llama(model) if isinstance(model, Llama) else _latent(model)


def attention_weights(model: Adaptable, projections: Sequence[str]) -> dict[str, Tensor]:
    """Weights [out, in] by module of the projections named, layer by layer.

    Raises ModelError where a layer has none of that name.
    """
    found = {m: weight for _, parts in attention_parts(model) for m, (weight, _) in parts}
    layers = range(model.config.layers)
    names = [f"layers.{n}.self_attn.{part}" for n in layers for part in projections]
    return {name: weight_of(found, name) for name in names}


def weight_of(weights: dict[str, Tensor], module: str) -> Tensor:
    """The weight of a module. Raises ModelError."""
    if module not in weights:
        raise ModelError(
            f"the model has no projection {module[:100]!r}",
            remedy="the adapters were trained on a model of another shape",
        )
    return weights[module]


def all_weights(model: Adaptable) -> dict[str, Tensor]:
    """Weights [out, in] of every module that can be adapted."""
    return {m: weight for _, parts in attention_parts(model) for m, (weight, _) in parts}


def usual_targets(model: Adaptable) -> tuple[str, ...]:
    """The projections that carry pairs where nobody says otherwise: of queries, and of values or of
    the latents that values are made from.
    """
    if not isinstance(model, Deepseek):
        return ("q_proj", "v_proj")
    return ("q_proj" if model.config.q_rank is None else "q_b_proj", "kv_a_proj_with_mqa")


def _llama(model: Llama) -> Iterator[tuple[str, Parts]]:
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


def _latent(model: Deepseek) -> Iterator[tuple[str, Parts]]:
    for n, layer in enumerate(model.weights.layers):
        weights, at = layer.attention, f"layers.{n}.self_attn."
        maps = {"kv_down": ("kv_a_proj_with_mqa", weights.kv_down)}
        maps["q_up"] = ("q_proj" if weights.q_down is None else "q_b_proj", weights.q_up)
        if weights.q_down is not None:
            maps["q_down"] = ("q_a_proj", weights.q_down)
        maps["output"] = ("o_proj", weights.output)
        for name, (module, pieces) in maps.items():
            (piece,) = pieces
            yield f"layers.{n}.attention.{name}", [(at + module, piece)]

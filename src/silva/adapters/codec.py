"""What the objects of a forest hold: tiers, cluster signatures and the probe's seeded A."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from silva.adapters.tiers import NO_HEAD, TIERS, Head, LoraPair, Tier
from silva.errors import ForestError

Encoded = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors by key, and metadata, as `ObjectStore.put` takes and `get` returns them."""

_FORMAT = "1"
_ORTHONORMAL = 1e-3


def encode_tier(tier: Tier) -> Encoded:
    head = {"head.weight": tier.head.weight, "head.bias": tier.head.bias}
    tensors = head if tier.head.classes else {}
    for module, pair in tier.pairs.items():
        tensors[f"pair.{module}.A"], tensors[f"pair.{module}.B"] = pair.A, pair.B
    metadata = {"kind": "tier", "tier": tier.name, "scaling": repr(float(tier.scaling))}
    return tensors, {"format": _FORMAT, **metadata}


def decode_tier(encoded: Encoded, where: object) -> Tier:
    """The tier of an object; ForestError unless keys and shapes are exactly a tier's."""
    tensors, metadata = encoded
    _check_kind(metadata, "tier", where)
    name, scaling = metadata.get("tier", ""), _scaling(metadata.get("scaling", ""), where)
    if name not in TIERS:
        raise ForestError(f"is a tier of no known name: {name[:40]!r}", where=where)
    parts = {"head.weight", "head.bias"}
    head = NO_HEAD
    if parts & set(tensors):
        head = Head(*(_take(tensors, f"head.{part}", where) for part in ("weight", "bias")))
    keys = set(tensors) - parts
    modules = sorted(
        {key.removeprefix("pair.").removesuffix(".A").removesuffix(".B") for key in keys}
    )
    expected = {f"pair.{module}.{part}" for module in modules for part in "AB"}
    if keys != expected:
        raise ForestError(_difference(keys, expected), where=where)
    pairs = {m: LoraPair(B=tensors[f"pair.{m}.B"], A=tensors[f"pair.{m}.A"]) for m in modules}
    tier = Tier(name=name, pairs=pairs, head=head, scaling=scaling)
    check_tier(tier, where)
    return tier


def check_tier(tier: Tier, where: object) -> None:
    """ForestError unless every shape in the tier fits the others."""
    weight, bias = tier.head.weight, tier.head.bias
    none = (weight.shape, bias.shape) == (NO_HEAD.weight.shape, NO_HEAD.bias.shape)
    fits = weight.ndim == 2 and bias.ndim == 1 and len(weight) == len(bias) and weight.numel()
    if not none and not fits:
        raise ForestError(f"head has shapes {_shape(weight)} and {_shape(bias)}", where=where)
    if not math.isfinite(tier.scaling):
        raise ForestError(f"scaling {tier.scaling} is not finite", where=where)
    if not tier.pairs:
        raise ForestError("has no low-rank pair", where=where)
    for module, pair in tier.pairs.items():
        fits = pair.A.ndim == 2 and pair.B.ndim == 2 and pair.A.shape[0] == pair.B.shape[1]
        if not fits or not pair.A.numel() or not pair.B.numel():
            shapes = f"B {_shape(pair.B)}, A {_shape(pair.A)}"
            raise ForestError(f"pair {module!r} has shapes {shapes}", where=where)


def check_like(tier: Tier, model: Tier, rank: int, scaling: float, where: object) -> None:
    """ForestError unless `tier` adapts the modules of `model`, with its shapes and head.

    Key sets are compared both ways: a module left out would silently answer as the base.
    """
    check_tier(tier, where)
    if set(tier.pairs) != set(model.pairs):
        raise ForestError(_difference(set(tier.pairs), set(model.pairs)), where=where)
    for module, pair in tier.pairs.items():
        like = model.pairs[module]
        wanted = (like.B.shape[0], rank, like.A.shape[1])
        found = (pair.B.shape[0], pair.rank, pair.A.shape[1])
        if wanted != found:
            text = f"pair {module!r} is (out, rank, in) = {found}, the forest has {wanted}"
            raise ForestError(text, where=where)
    if tier.head.weight.shape != model.head.weight.shape:
        found_head, wanted_head = _shape(tier.head.weight), _shape(model.head.weight)
        raise ForestError(f"head is {found_head}, the forest has {wanted_head}", where=where)
    if not math.isclose(tier.scaling, scaling, rel_tol=1e-6):
        raise ForestError(f"scaling is {tier.scaling}, the forest has {scaling}", where=where)


def encode_signature(bases: Mapping[str, Tensor]) -> Encoded:
    """A cluster's representative subspace: orthonormal columns [out, rank] by module."""
    return {f"basis.{m}": b for m, b in bases.items()}, {"format": _FORMAT, "kind": "signature"}


def decode_signature(encoded: Encoded, where: object) -> dict[str, Tensor]:
    bases = _matrices(encoded, "signature", "basis.", where)
    for module, basis in bases.items():
        gram = basis.T @ basis
        if not torch.allclose(gram, torch.eye(len(gram)), atol=_ORTHONORMAL):
            raise ForestError(f"basis of {module!r} is not orthonormal", where=where)
    return bases


def encode_probe(draw: Mapping[str, Tensor]) -> Encoded:
    """The seeded A [rank, in] by module, from which every probe starts."""
    return {f"A.{m}": a for m, a in draw.items()}, {"format": _FORMAT, "kind": "probe"}


def decode_probe(encoded: Encoded, where: object) -> dict[str, Tensor]:
    return _matrices(encoded, "probe", "A.", where)


def _matrices(encoded: Encoded, kind: str, prefix: str, where: object) -> dict[str, Tensor]:
    tensors, metadata = encoded
    _check_kind(metadata, kind, where)
    if not tensors:
        raise ForestError(f"is an empty {kind}", where=where)
    for key, tensor in tensors.items():
        if not key.startswith(prefix) or tensor.ndim != 2 or not tensor.numel():
            raise ForestError(f"{kind} has a bad entry {key[:80]!r} {_shape(tensor)}", where=where)
    return {key.removeprefix(prefix): tensors[key] for key in sorted(tensors)}


def _check_kind(metadata: Mapping[str, str], kind: str, where: object) -> None:
    if metadata.get("format") != _FORMAT:
        remedy = "it was written by another version of silva"
        raise ForestError(f"is not of format {_FORMAT}", where=where, remedy=remedy)
    if metadata.get("kind") != kind:
        raise ForestError(f"is a {metadata.get('kind', '')[:40]!r}, not a {kind}", where=where)


def _scaling(text: str, where: object) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ForestError(f"scaling {text[:40]!r} is not a number", where=where) from error


def _take(tensors: Mapping[str, Tensor], key: str, where: object) -> Tensor:
    if key not in tensors:
        raise ForestError(f"tensor {key!r} is missing", where=where)
    return tensors[key]


def _difference(found: set[str], expected: set[str]) -> str:
    parts = [
        f"{word} {', '.join(sorted(names)[:3])[:160]}" + (", ..." if len(names) > 3 else "")
        for word, names in (("lacks", expected - found), ("has unexpected", found - expected))
        if names
    ]
    return " and ".join(parts)


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)

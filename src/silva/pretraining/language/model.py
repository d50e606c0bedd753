"""The parameters of a DeepSeek-shaped model under training, and the served model made of them.

Parameters have the names of the Hugging Face tensors; those of a layer's experts are stacked, so
that all experts are one grouped product. The served code computes: what is trained is what runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from silva.models import deepseek_tensors
from silva.models.deepseek import Deepseek
from silva.models.deepseek_config import DeepseekConfig
from silva.models.deepseek_tensors import CORRECTION
from silva.models.experts import ExpertWeights, LocalExperts

EXPERT_PARTS = ("gate_proj", "up_proj", "down_proj")


class CountedExperts(LocalExperts):
    """Experts in this process that count the tokens of each: int64 [experts] by layer."""

    def __init__(self, layers: Mapping[int, ExpertWeights]) -> None:
        super().__init__(layers)
        self.counts = {
            layer: torch.zeros(len(weights.ids), dtype=torch.int64)
            for layer, weights in layers.items()
        }

    def __call__(self, layer: int, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        self.counts[layer] += experts.flatten().bincount(minlength=len(self.counts[layer]))
        return super().__call__(layer, x, experts, weights)


def initial(config: DeepseekConfig, seed: int) -> dict[str, Tensor]:
    """Parameters by name: norms at one, biases of gates at zero, matrices normal.

    Matrices have the deviation ``1 / sqrt(columns)``, those that end a block less by the square
    root of twice the layers, and the embedding 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = math.sqrt(2 * (config.layers + config.drafts))
    found: dict[str, Tensor] = {}
    for name, shape in stacked_shapes(config).items():
        if name.endswith(CORRECTION):
            found[name] = torch.zeros(shape)
        elif len(shape) == 1:
            found[name] = torch.ones(shape)
        else:
            deviation = 0.02 if name == deepseek_tensors.EMBEDDING else shape[-1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                deviation /= depth
            found[name] = torch.randn(shape, generator=generator) * deviation
    return found


def stacked_shapes(config: DeepseekConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters by name, the experts' stacked under ``...mlp.experts.PART``."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in deepseek_tensors.shapes(config).items():
        if ".mlp.experts." not in name:
            found[name] = shape
            continue
        at, rest = name.split(".mlp.experts.")
        part = rest.split(".")[1]
        found[f"{at}.mlp.experts.{part}"] = (config.experts, *shape)
    return found


def unstacked(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as files of the family have them, one an expert's matrix."""
    found: dict[str, Tensor] = {}
    for name, tensor in parameters.items():
        if ".mlp.experts." not in name:
            found[name] = tensor
            continue
        at, part = name.rsplit(".", 1)
        found |= {f"{at}.{e}.{part}.weight": each for e, each in enumerate(tensor)}
    return found


def assemble(config: DeepseekConfig, parameters: Mapping[str, Tensor]) -> Deepseek:
    """The model of these parameters; gradients flow back to them. Its exchange counts."""
    layers = {}
    for layer in range(config.layers + config.drafts):
        if config.has_experts(layer):
            at = f"model.layers.{layer}.mlp.experts."
            gate, up, down = (parameters[at + part] for part in EXPERT_PARTS)
            ids = tuple(range(config.experts))
            layers[layer] = ExpertWeights(ids, torch.cat((gate, up), dim=1), down)
    weights = deepseek_tensors.assemble(config, parameters.__getitem__)
    return Deepseek(config, weights, CountedExperts(layers), name="under training", digest="")


def balance(parameters: Mapping[str, Tensor], counts: Mapping[int, Tensor], rate: float) -> None:
    """Raise the correction bias of experts with too few tokens, lower that of others, in place.

    Loads are balanced without a loss of their own (arXiv 2408.15664).
    """
    for layer, count in counts.items():
        wanted = count.float().mean() - count
        parameters[f"model.layers.{layer}.{CORRECTION}"].add_(rate * wanted.sign())

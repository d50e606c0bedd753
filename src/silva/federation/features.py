"""What a Vision Transformer gives to the heads on it: the class tokens of a client's images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from silva.models.layers import NO_ADAPTATION, Adaptation
from silva.models.vit import ViT


@dataclass(frozen=True)
class ClientData:
    """One client's images, ready for the model: pixels [n, 3, side, side], labels int64 [n]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def device_of(model: ViT) -> torch.device:
    """Where the model computes."""
    return model.layernorm.weight.device


@torch.no_grad()
def features_of(model: ViT, pixels: Tensor, adaptation: Adaptation = NO_ADAPTATION) -> Tensor:
    """Class tokens of all images [n, hidden], 256 at a time, computed where the model is."""
    device = device_of(model)
    adaptation = adaptation.to(device)
    parts = [model.features(part.to(device), adaptation) for part in pixels.split(256)]
    return torch.cat(parts).cpu()

"""Top-1 accuracy of a finished backbone, as every later command will see it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.errors import ModelError
from silva.models.backbone import Backbone


@torch.no_grad()
def top_1(backbone: Backbone, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Share of `images` uint8 [n, 3, s, s] whose likeliest class is their label int64 [n]."""
    if backbone.head is None:
        raise ModelError("has no classifier to measure", where=backbone.id)
    hits = 0
    for rows in torch.arange(len(labels)).split(batch):
        pixels = backbone.pixels(images[rows].permute(0, 2, 3, 1).numpy())
        logits = F.linear(backbone.model.features(pixels), backbone.head.weight, backbone.head.bias)
        hits += int((logits.argmax(dim=1) == labels[rows]).sum())
    return hits / max(len(labels), 1)

"""A Vision Transformer and images with labels, as the cascade sees them (`silva.federation.task`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from silva.adapters.tiers import AdapterPath, Head
from silva.federation.config import FederationConfig
from silva.federation.features import ClientData, device_of, features_of
from silva.federation.figures import ACCURACY, Figure
from silva.federation.fixed_features import FixedFeatures
from silva.federation.record import Hits
from silva.federation.task import Objective
from silva.models.adapted import adaptation_of
from silva.models.layers import Adaptation
from silva.models.vit import ViT


class Classification:
    """The task of telling `classes` apart, judged by accuracy; every tier has its own head."""

    def __init__(self, model: ViT, classes: int) -> None:
        self.model, self.classes = model, classes
        self._fixed = FixedFeatures(model)

    @property
    def figure(self) -> Figure:
        return ACCURACY

    @property
    def reads(self) -> Classification:
        return self

    @property
    def at_once(self) -> int:
        """A step's images fit into memory together."""
        return 1 << 30

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def hidden(self) -> int:
        return self.model.config.hidden_size

    @property
    def longest(self) -> float:
        """The last layer norm scales a vector of length sqrt(hidden)."""
        scale, shift = self.model.layernorm.weight.detach(), self.model.layernorm.bias.detach()
        return float(scale.abs().max() * len(scale) ** 0.5 + shift.norm())

    def features(self, data: ClientData) -> Tensor:
        return features_of(self.model, data.pixels)

    def labels(self, data: ClientData) -> Tensor:
        return data.labels

    def settled(self, config: FederationConfig) -> FederationConfig:
        return config

    def base(self, projections: tuple[str, ...]) -> dict[str, Tensor]:
        names = self.model.module_names(projections)
        modules = {n: self.model.get_submodule(n) for n in names}
        return {n: m.weight.detach().cpu() for n, m in modules.items()}  # type: ignore[operator]

    def merged(self, path: AdapterPath) -> Mapping[str, Tensor]:
        return adaptation_of(path, self.model, merged=True).merged

    def objective(self, data: ClientData, adaptation: Adaptation, *, fixed: bool) -> Objective:
        """Cross entropy of the classes."""
        device = self.device
        kept = self._fixed(self.model, data.pixels, adaptation) if fixed else None

        def loss(rows: Tensor, head: Head) -> Tensor:
            labels = data.labels[rows].to(device)
            batch = (data.pixels if kept is None else kept)[rows].to(device)
            tokens = self.model.features(batch, adaptation) if kept is None else batch
            return F.cross_entropy(F.linear(tokens, head.weight, head.bias), labels)

        return loss

    def measure(self, data: ClientData, merged: Mapping[str, Tensor], head: Head) -> Hits:
        """Correct predictions on `data`, and accuracy averaged over its classes."""
        logits = self._logits(data, merged, head)
        hits = logits.argmax(dim=1) == data.labels
        classes = data.labels.unique()
        per_class = torch.stack([hits[data.labels == c].float().mean() for c in classes])
        return Hits(int(hits.sum()), len(data), float(per_class.mean()))

    @torch.no_grad()
    def mean_loss(self, data: ClientData, merged: Mapping[str, Tensor], head: Head) -> float:
        return float(F.cross_entropy(self._logits(data, merged, head), data.labels))

    def _logits(self, data: ClientData, merged: Mapping[str, Tensor], head: Head) -> Tensor:
        features = features_of(self.model, data.pixels, Adaptation(merged=merged))
        return F.linear(features, head.weight, head.bias)

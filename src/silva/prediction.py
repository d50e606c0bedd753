"""Answers of one client's model for image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from silva.data.sources import FileSource
from silva.errors import ForestError
from silva.models.adapted import adaptation_of
from silva.models.backbone import Backbone
from silva.models.registry import load_backbone

if TYPE_CHECKING:
    from typing import Literal

    from silva.adapters.forest import Forest

BATCH = 64
"""Images in memory at a time, however many are asked for."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, with probabilities in [0, 1]."""

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


def backbone_of(forest: Forest, name_or_path: str = "") -> Backbone:
    """The base model that a forest was grown on. Raises ForestError when the weights differ."""
    backbone = load_backbone(name_or_path or forest.base.id)
    if backbone.digest != forest.base.digest:
        raise ForestError(
            f"was grown on other weights than {backbone.id}",
            where=forest.folder,
            remedy="give the base model of the forest with --backbone",
        )
    return backbone


@torch.no_grad()
def predict(
    forest: Forest,
    client: str,
    images: Sequence[Path],
    top: int,
    unknown_client: str,
    backbone: str,
    after: Callable[[int], None] = lambda answered: None,
) -> list[Prediction]:
    """Top classes of every image; see `silva.Forest.predict`. `after` hears how many are answered."""
    path = forest.path(client, unknown=cast("Literal['error', 'root']", unknown_client))
    if not forest.class_names:
        raise ForestError(
            "is the forest of a language model, and images have no answer in it",
            where=forest.folder,
            remedy="export a client with `silva forest export --peft`",
        )
    base = backbone_of(forest, backbone)
    source = FileSource(Path(), [str(image) for image in images])
    adaptation = adaptation_of(path, base.model, merged=True)
    head, answers = (path.head.weight, path.head.bias), []
    for start in range(0, len(images), BATCH):
        rows = np.arange(start, min(start + BATCH, len(images)))
        logits = base.model(base.pixels(source.load(rows, base.side)), head, adaptation)
        answers += _best(images[start : start + BATCH], logits, top, forest.class_names)
        after(len(answers))
    return answers


def _best(
    images: Sequence[Path], logits: Tensor, top: int, names: Sequence[str]
) -> list[Prediction]:
    values, rows = logits.softmax(dim=1).topk(min(top, logits.shape[1]))
    return [
        Prediction(str(image), tuple(names[c] for c in best), tuple(round(p, 6) for p in chances))
        for image, best, chances in zip(images, rows.tolist(), values.tolist(), strict=True)
    ]

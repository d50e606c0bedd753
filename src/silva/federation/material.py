"""What a run works on: a base model with its task, and the data that are dealt out to clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from silva.adapters.manifest import BaseModel
from silva.data.nouns import Dataset, ImageDataset, Partition
from silva.federation.classification import Classification
from silva.federation.runtime.base import Clients
from silva.federation.runtime.local import ClientImages
from silva.federation.task import Task
from silva.models.backbone import Backbone

TEXT = "text"
"""Among a forest's settings: how its texts were made ready."""


@dataclass(frozen=True)
class Material:
    """A frozen model and rows of data that it can be tuned on.

    base      the model as forests name it
    classes   what the rows of every tier's head are; None where tiers have no heads
    clients   opens the data of a partition's clients
    settings  how the data were made ready, which a forest keeps: a client that joins later needs it
    """

    base: BaseModel
    task: Task[Any]
    dataset: Dataset
    classes: tuple[str, ...] | None
    clients: Callable[[Partition], Clients[Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def image_material(backbone: Backbone, dataset: ImageDataset) -> Material:
    """A Vision Transformer and images with labels."""
    return Material(
        base=BaseModel(backbone.id, backbone.digest),
        task=Classification(backbone.model, len(dataset.class_names)),
        dataset=dataset,
        classes=dataset.class_names,
        clients=partial(ClientImages, dataset, backbone=backbone),
    )

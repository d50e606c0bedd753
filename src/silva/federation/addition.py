"""A client that took no part in training joins a finished forest: probe, route, optional leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.names import check_client_name
from silva.adapters.routing import nearest, similarities
from silva.adapters.tiers import AdapterPath, LoraPair, Tier
from silva.config import build, overlay, paths
from silva.data.nouns import TEST, TRAIN, ImageDataset
from silva.data.open import open_dataset
from silva.errors import ConfigError, DataError, ForestError
from silva.federation.client import (
    ClientData,
    Update,
    Work,
    correct_by_class,
    mean_loss,
    train_client,
)
from silva.federation.config import FederationConfig
from silva.federation.heads import with_label_prior
from silva.federation.newcomer import probe_work
from silva.federation.orthogonality import Frozen
from silva.federation.rounds import rate
from silva.federation.run import Progress
from silva.federation.seeds import derive
from silva.models.adapted import adaptation_of
from silva.models.backbone import Backbone

APPLIES = tuple(
    name
    for name in paths(FederationConfig)
    if name.partition(".")[0] in ("head", "leaf", "local", "orthogonality", "probe_steps")
    and name not in ("local.epochs", "leaf.rounds")
)
"""Settings of a run that decide how a client is added; its passes are of one epoch each."""


@dataclass(frozen=True)
class Added:
    """Where a client was put, and why.

    similarities: mean squared cosine between the client's probe and each cluster; losses: of each
    cluster's model on the client's training images; by_loss: the cluster these would choose.
    accuracy: by tier, on the client's test images, empty when it has none. rejected: passes of probe
    and leaf that ended in NaN or infinities and were undone.
    """

    forest: Forest
    client: str
    cluster: str | None
    similarities: dict[str, float]
    losses: dict[str, float]
    by_loss: str | None
    leaf: bool
    images: int
    accuracy: dict[str, float] = field(default_factory=dict)
    rejected: int = 0


@dataclass(frozen=True)
class _Newcomer:
    """All that the steps below share."""

    forest: Forest
    backbone: Backbone
    name: str
    train: ClientData
    test: ClientData | None
    config: FederationConfig
    on_progress: Callable[[Progress], None]

    def merged(self, path: AdapterPath) -> Mapping[str, Tensor]:
        return adaptation_of(path, self.backbone.model, merged=True).merged


def add_client(
    forest: Forest,
    client: str,
    backbone: Backbone,
    dataset: ImageDataset,
    config: FederationConfig,
    leaf_epochs: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Added:
    """Route `client` by a probe of its images, tune a leaf if asked, and commit a new version.

    The probe never sees test images. Raises ForestError for a name that is taken or illegal, for
    classes that the forest does not know, and DataError when there is nothing to train on.
    """
    check_client_name(client)
    if client in forest.manifest.clients:
        raise ForestError(f"client {client!r} is there already", remedy="choose another name")
    train, test = _images(forest, backbone, dataset)
    newcomer = _Newcomer(forest, backbone, client, train, test, config, on_progress)
    scores, losses = _scores(newcomer)
    by_loss = forest.clusters[nearest([-x for x in losses.values()])] if losses else None
    cluster = forest.clusters[nearest(list(scores.values()))] if scores else by_loss
    path = forest.path(cluster or "root")
    leaf, rejected = _leaf(newcomer, path, leaf_epochs) if leaf_epochs else (None, 0)
    tiers = (*path.tiers, leaf) if leaf else path.tiers
    accuracy = _accuracies(newcomer, tiers)
    new = NewClient(
        leaf=leaf, cluster=cluster, seen=False, images=len(train.labels), accuracy=accuracy
    )
    grown = forest.commit(Change(clients={client: new}))
    return Added(
        forest=grown,
        client=client,
        cluster=cluster,
        similarities=scores,
        losses=losses,
        by_loss=by_loss,
        leaf=leaf is not None,
        images=len(train.labels),
        accuracy=accuracy,
        rejected=rejected + bool(losses and not scores),
    )


def settings_for(forest: Forest, flags: Mapping[str, Any]) -> FederationConfig:
    """The settings of the run that grew `forest`, or defaults where it has none, under `flags`.

    Flags have names as in a recipe, "federation.local.lr". Raises ConfigError for one that is
    unknown or changes nothing here.
    """
    known = [f"federation.{name}" for name in APPLIES]
    for name in flags:
        if name not in known:
            raise ConfigError(
                f"{name[:60]!r} has no part in adding a client",
                where="--set",
                remedy=f"known here: {', '.join(known)}",
            )
    stored = {"federation": dict(forest.manifest.settings or {})}
    where = f"{forest.folder}, version {forest.version}"
    return build(FederationConfig, overlay(stored, flags)["federation"], where)


def open_for(forest: Forest, data: str, split: str = "", labels: str = "") -> ImageDataset:
    """A client's images with labels numbered as the forest numbers its classes.

    Raises ForestError when the data name a class that the forest does not know.
    """
    dataset = open_dataset(data, split=split, labels=labels)
    known = {name: n for n, name in enumerate(forest.class_names)}
    present = sorted({dataset.class_names[n] for n in set(dataset.labels.tolist())})
    strange = [name for name in present if name not in known]
    if strange:
        raise ForestError(
            f"the data have {len(strange)} classes that the forest does not know "
            f"(first {strange[0][:40]!r})",
            where=data,
            remedy=f"name classes as the forest does, e.g. {', '.join(forest.class_names[:3])}",
        )
    numbers = np.array([known.get(name, -1) for name in dataset.class_names], dtype=np.int64)
    labels_here = numbers[dataset.labels]
    return replace(dataset, labels=labels_here, class_names=forest.class_names)


def _images(
    forest: Forest, backbone: Backbone, dataset: ImageDataset
) -> tuple[ClientData, ClientData | None]:
    if dataset.class_names != forest.class_names:
        raise ForestError("the class list does not match the forest's", where=dataset.title)
    split = dataset.split
    train = np.flatnonzero(split == TRAIN) if split is not None else np.arange(len(dataset))
    test = np.flatnonzero(split == TEST) if split is not None else np.empty(0, dtype=np.int64)
    if not len(train):
        raise DataError("no training images", where=dataset.title, remedy="check --split")

    def load(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ClientData:
        pixels = backbone.pixels(dataset.source.load(rows, backbone.side))
        return ClientData(pixels, torch.from_numpy(dataset.labels[rows]))

    return load(train), load(test) if len(test) else None


def _scores(newcomer: _Newcomer) -> tuple[dict[str, float], dict[str, float]]:
    """Similarity of the probe to every cluster, and every cluster's loss as a cross-check.

    No similarities where the probe ended in NaN: then the loss decides.
    """
    forest, backbone = newcomer.forest, newcomer.backbone
    if not forest.clusters:
        return {}, {}
    root = forest.path("root")
    work = probe_work(
        newcomer.name,
        newcomer.merged(root),
        forest.probe(),
        root.head,
        scaling=root.tiers[0].scaling,
        steps=newcomer.config.probe_steps,
        seed=derive(0, "probe", newcomer.name),
    )
    update = train_client(backbone.model, newcomer.train, work, newcomer.config.local)
    steps = 1 + len(forest.clusters)
    newcomer.on_progress(Progress("probe", 1, steps, "probe"))
    scores, losses = [], []
    if update.finite():
        factors = {n: p.B for n, p in update.pairs.items()}
        scores = similarities(factors, [forest.signature(c) for c in forest.clusters])
    for cluster in forest.clusters:
        path = forest.path(cluster)
        losses.append(mean_loss(backbone.model, newcomer.train, newcomer.merged(path), path.head))
        newcomer.on_progress(Progress("probe", 1 + len(losses), steps, cluster))
    by_loss = dict(zip(forest.clusters, losses, strict=True))
    return dict(zip(forest.clusters, scores, strict=True)) if scores else {}, by_loss


def _leaf(newcomer: _Newcomer, path: AdapterPath, epochs: int) -> tuple[Tier, int]:
    """A leaf on top of `path`, trained as the cascade trains one, and how many epochs were undone."""
    config, merged = newcomer.config, newcomer.merged(path)
    weights = (config.orthogonality.gamma_cluster, config.orthogonality.gamma_leaf)
    frozen = tuple(
        Frozen({n: p.B for n, p in tier.pairs.items()}, gamma)
        for tier, gamma in zip(path.tiers, weights, strict=False)
    )
    head = path.head
    if config.head == "tiered":
        head = with_label_prior(head, newcomer.train.labels, config.leaf.label_prior)
    current, rejected = Update(newcomer.name, _fresh(newcomer, path), head, 0, 0.0, 0.0, 0.0), 0
    for epoch in range(epochs):
        work = Work(
            client=newcomer.name,
            merged=merged,
            pairs=current.pairs,
            head=current.head,
            scaling=path.tiers[0].scaling,
            epochs=1,
            seed=derive(0, "leaf", newcomer.name, epoch),
            rate=rate(config.local.schedule, epoch, epochs) * config.leaf.rate,
            train_head=config.head != "global",
            frozen=frozen,
            orthogonality=config.orthogonality.kind,
        )
        update = train_client(newcomer.backbone.model, newcomer.train, work, config.local)
        if update.finite():
            current = update
        else:
            rejected += 1
        newcomer.on_progress(Progress("leaf epochs", epoch + 1, epochs, f"loss {current.loss:.3f}"))
    scaling = path.tiers[0].scaling
    return Tier(name="leaf", pairs=current.pairs, head=current.head, scaling=scaling), rejected


def _fresh(newcomer: _Newcomer, path: AdapterPath) -> dict[str, LoraPair]:
    generator = torch.Generator().manual_seed(derive(0, "A", "leaf", newcomer.name))
    pairs = {}
    for name in path.modules():
        like = path.tiers[0].pairs[name]
        bound = like.A.shape[1] ** -0.5
        A = torch.empty_like(like.A).uniform_(-bound, bound, generator=generator)
        pairs[name] = LoraPair(B=torch.zeros_like(like.B), A=A)
    return pairs


def _accuracies(newcomer: _Newcomer, tiers: tuple[Tier, ...]) -> dict[str, float]:
    test = newcomer.test
    if test is None:
        return {}
    result: dict[str, float] = {}
    for n, tier in enumerate(tiers):
        path = AdapterPath(tiers[: n + 1])
        correct, _ = correct_by_class(
            newcomer.backbone.model, test, newcomer.merged(path), path.head
        )
        result[tier.name] = correct / len(test.labels)
        newcomer.on_progress(Progress("measure", n + 1, len(tiers), tier.name))
    return result

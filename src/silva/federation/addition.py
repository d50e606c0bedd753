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
from silva.adapters.joining import check_name, still_new
from silva.adapters.label_priors import LabelPriors
from silva.adapters.names import check_client_name
from silva.adapters.probe_file import Probed
from silva.adapters.routing import nearest, similarities
from silva.adapters.tiers import AdapterPath, LoraPair, Tier
from silva.config import build, overlay, paths
from silva.data.nouns import TEST, TRAIN, ClientRows, Dataset, ImageDataset, Partition
from silva.data.open import open_dataset
from silva.errors import ConfigError, DataError, ForestError
from silva.federation.client import Update, Work, train_client
from silva.federation.config import FederationConfig
from silva.federation.labels import has_priors
from silva.federation.material import TEXT, Material
from silva.federation.newcomer import probe_work
from silva.federation.orthogonality import Frozen
from silva.federation.prior_heads import leaf_head
from silva.federation.rounds import rate
from silva.federation.run import Progress
from silva.federation.seeds import derive
from silva.federation.task import Examples, Task

_PARTS = ("head", "label_prior", "leaf", "local", "orthogonality", "probe_steps")
APPLIES = tuple(
    name
    for name in paths(FederationConfig)
    if name.partition(".")[0] in _PARTS and name not in ("local.epochs", "leaf.rounds")
)
"""Settings of a run that decide how a client is added; its passes are of one epoch each."""

_RETIRED = {"leaf": ("label_prior",)}
"""Settings by table that forests of earlier versions name and nobody reads any more."""
_HALF_AN_IMAGE = 0.5
"""Of each class: what was added to a client's own when the setting was still there."""


@dataclass(frozen=True)
class Added:
    """Where a client was put, and why.

    similarities: mean squared cosine between the client's probe and each cluster; losses: of each
    cluster's model on the client's training data; by_loss: the cluster these would choose.
    figures: by tier, on the client's test data, empty when it has none; they are of the `figure`
    named. images: the client's training examples. rejected: passes of probe and leaf that ended in
    NaN or infinities and were undone.
    """

    forest: Forest
    client: str
    cluster: str | None
    similarities: dict[str, float]
    losses: dict[str, float]
    by_loss: str | None
    leaf: bool
    images: int
    figure: str = "accuracy"
    figures: dict[str, float] = field(default_factory=dict)
    rejected: int = 0


@dataclass(frozen=True)
class _Newcomer:
    """All that the steps below share."""

    forest: Forest
    task: Task[Any]
    name: str
    train: Examples
    test: Examples | None
    config: FederationConfig
    on_progress: Callable[[Progress], None]

    def merged(self, path: AdapterPath) -> Mapping[str, Tensor]:
        return self.task.merged(path)


def add_client(
    forest: Forest,
    client: str,
    material: Material,
    config: FederationConfig,
    leaf_epochs: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Added:
    """Route `client` by a probe of its data, tune a leaf if asked, and commit a new version.

    The probe never sees test data. Raises ForestError for a name that is taken or illegal, also by
    somebody who came meanwhile, for classes that the forest does not know, and DataError when there is
    nothing to train on.
    """
    config = material.task.settled(config)
    check_name(forest.manifest, client)
    train, test = _examples(forest, client, material)
    newcomer = _Newcomer(forest, material.task, client, train, test, config, on_progress)
    scores, losses = _scores(newcomer)
    by_loss = forest.clusters[nearest([-x for x in losses.values()])] if losses else None
    cluster = forest.clusters[nearest(list(scores.values()))] if scores else by_loss
    path = forest.path(cluster or "root")
    leaf, rejected = _leaf(newcomer, cluster, leaf_epochs) if leaf_epochs else (None, 0)
    tiers = (*path.tiers, leaf) if leaf else path.tiers
    figures = _figures(newcomer, tiers)
    measured: dict[str, Any] = {material.task.figure.name: figures}
    new = NewClient(leaf=leaf, cluster=cluster, seen=False, images=len(train), **measured)
    grown = forest.commit(Change(clients={client: new}), check=still_new(forest, client))
    return Added(
        forest=grown,
        client=client,
        cluster=cluster,
        similarities=scores,
        losses=losses,
        by_loss=by_loss,
        leaf=leaf is not None,
        images=len(train),
        figure=material.task.figure.name,
        figures=figures,
        rejected=rejected + bool(losses and not scores),
    )


def probe_client(
    forest: Forest,
    client: str,
    material: Material,
    config: FederationConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Probed:
    """What a client tells of itself to join `forest` elsewhere (`silva.adapters.joining`).

    Raises ForestError for an illegal name, for a forest without clusters and for classes that it does
    not know, DataError when there is nothing to train on or the probe ended in NaN.
    """
    config = material.task.settled(config)
    check_client_name(client)
    train, _ = _examples(forest, client, material)
    newcomer = _Newcomer(forest, material.task, client, train, None, config, on_progress)
    factors = _probe(newcomer)
    if factors is None:
        what = "the probe ended in NaN or infinite numbers"
        raise DataError(what, where=material.dataset.title, remedy="look at the data's values")
    return Probed(factors, len(train))


def tune_leaf(
    forest: Forest,
    client: str,
    material: Material,
    config: FederationConfig,
    epochs: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Tier:
    """A leaf for a client of `forest` that has none: the one that `add_client` would have given it.

    `on_progress` is called after every epoch. Raises UnknownClientError, and what `add_client` raises;
    DataError also where every epoch ended in NaN or infinities.
    """
    config = material.task.settled(config)
    train, _ = _examples(forest, client, material)
    newcomer = _Newcomer(forest, material.task, client, train, None, config, on_progress)
    leaf, rejected = _leaf(newcomer, forest.client(client).cluster, epochs)
    if rejected == epochs:
        what = "every pass of the leaf ended in NaN or infinite numbers"
        raise DataError(what, where=material.dataset.title, remedy="look at the data's values")
    return leaf


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
    kept = forest.manifest.settings or {}
    stored = {"federation": {n: _current(n, kept[n]) for n in kept if n != TEXT}}
    where = f"{forest.folder}, version {forest.version}"
    return build(FederationConfig, overlay(stored, flags)["federation"], where)


def _current(name: str, value: Any) -> Any:
    """A stored setting, or table of settings, without those that are retired."""
    if name not in _RETIRED or not isinstance(value, dict):
        return value
    return {inner: value[inner] for inner in value if inner not in _RETIRED[name]}


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


def _examples(forest: Forest, client: str, material: Material) -> tuple[Examples, Examples | None]:
    """The client's training and test data; all rows are the client's."""
    dataset = material.dataset
    if material.classes != forest.manifest.classes:
        raise ForestError("the class list does not match the forest's", where=dataset.title)
    rows = _rows(client, dataset)
    if not len(rows.train):
        what = f"no training {dataset.unit}"
        raise DataError(what, where=dataset.title, remedy="check --split")
    own = material.clients(Partition("", (rows,)))
    return own.train(client), own.test(client) if len(rows.test) else None


def _rows(client: str, dataset: Dataset) -> ClientRows:
    """Every row, by the split; all train where there is none."""
    split = dataset.split
    train = np.flatnonzero(split == TRAIN) if split is not None else np.arange(len(dataset))
    test = np.flatnonzero(split == TEST) if split is not None else np.empty(0, dtype=np.int64)
    return ClientRows(client, train, test)


def _scores(newcomer: _Newcomer) -> tuple[dict[str, float], dict[str, float]]:
    """Similarity of the probe to every cluster, and every cluster's loss as a cross-check.

    No similarities where the probe ended in NaN: then the loss decides.
    """
    forest = newcomer.forest
    if not forest.clusters:
        return {}, {}
    factors = _probe(newcomer)
    steps = 1 + len(forest.clusters)
    newcomer.on_progress(Progress("probe", 1, steps, "probe"))
    scores, losses = [], []
    if factors is not None:
        scores = similarities(factors, [forest.signature(c) for c in forest.clusters])
    for cluster in forest.clusters:
        path = forest.path(cluster)
        losses.append(newcomer.task.mean_loss(newcomer.train, newcomer.merged(path), path.head))
        newcomer.on_progress(Progress("probe", 1 + len(losses), steps, cluster))
    by_loss = dict(zip(forest.clusters, losses, strict=True))
    return dict(zip(forest.clusters, scores, strict=True)) if scores else {}, by_loss


def _probe(newcomer: _Newcomer) -> dict[str, Tensor] | None:
    """B of the client's probe by module; None where it ended in NaN or infinities."""
    forest, root = newcomer.forest, newcomer.forest.path("root")
    work = probe_work(
        newcomer.name,
        newcomer.merged(root),
        forest.probe(),
        root.head,
        scaling=root.tiers[0].scaling,
        steps=newcomer.config.probe_steps,
        seed=derive(0, "probe", newcomer.name),
    )
    update = train_client(newcomer.task, newcomer.train, work, newcomer.config.local)
    return {n: p.B for n, p in update.pairs.items()} if update.finite() else None


def _leaf(newcomer: _Newcomer, cluster: str | None, epochs: int) -> tuple[Tier, int]:
    """A leaf in `cluster`, trained as the cascade trains one, and how many epochs were undone."""
    path = newcomer.forest.path(cluster or "root")
    config, merged, reads = newcomer.config, newcomer.merged(path), newcomer.task.reads
    weights = (config.orthogonality.gamma_cluster, config.orthogonality.gamma_leaf)
    frozen = tuple(
        Frozen({n: p.B for n, p in tier.pairs.items()}, gamma)
        for tier, gamma in zip(path.tiers, weights, strict=False)
    )
    head = leaf_head(_priors(newcomer), reads, newcomer.train, cluster, path.head)
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
        update = train_client(newcomer.task, newcomer.train, work, config.local)
        if update.finite():
            current = update
        else:
            rejected += 1
        newcomer.on_progress(Progress("leaf epochs", epoch + 1, epochs, f"loss {current.loss:.3f}"))
    scaling = path.tiers[0].scaling
    return Tier(name="leaf", pairs=current.pairs, head=current.head, scaling=scaling), rejected


def _priors(newcomer: _Newcomer) -> LabelPriors | None:
    """What the forest says of labels; its own of one from before it did, whose heads took all alike."""
    reads = newcomer.task.reads
    if reads is None or not has_priors(newcomer.config, reads):
        return None
    return newcomer.forest.manifest.labels or LabelPriors({}, reads.classes * _HALF_AN_IMAGE)


def _fresh(newcomer: _Newcomer, path: AdapterPath) -> dict[str, LoraPair]:
    generator = torch.Generator().manual_seed(derive(0, "A", "leaf", newcomer.name))
    pairs = {}
    for name in path.modules():
        like = path.tiers[0].pairs[name]
        bound = like.A.shape[1] ** -0.5
        A = torch.empty_like(like.A).uniform_(-bound, bound, generator=generator)
        pairs[name] = LoraPair(B=torch.zeros_like(like.B), A=A)
    return pairs


def _figures(newcomer: _Newcomer, tiers: tuple[Tier, ...]) -> dict[str, float]:
    test = newcomer.test
    if test is None:
        return {}
    result: dict[str, float] = {}
    for n, tier in enumerate(tiers):
        path = AdapterPath(tiers[: n + 1])
        result[tier.name] = newcomer.task.measure(test, newcomer.merged(path), path.head).value
        newcomer.on_progress(Progress("measure", n + 1, len(tiers), tier.name))
    return result

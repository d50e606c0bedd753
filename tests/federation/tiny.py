"""A federation of seconds: a random ViT of width 16, images of 8 pixels, four classes.

Eight clients in two groups: group 0 owns the classes ant and bee, group 1 cow and dog; the last
client of each group is held out. A class is a bright quadrant in noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silva.adapters.tiers import Head, LoraPair
from silva.config import build, overlay
from silva.data.nouns import TEST, TRAIN, ClientRows, ImageDataset, Partition
from silva.data.sources import ArraySource
from silva.federation import assembly
from silva.federation.classification import Classification
from silva.federation.client import Update, Work
from silva.federation.config import FederationConfig
from silva.federation.features import ClientData
from silva.federation.material import Material, image_material
from silva.federation.run import Progress, Run
from silva.federation.runtime.base import Runtime
from silva.federation.state import RunFolder, RunState
from silva.models.backbone import Backbone
from silva.models.loader import save_vit
from silva.models.vit import ViT, ViTConfig

CLASSES = ("ant", "bee", "cow", "dog")
SIDE, TRAIN_IMAGES, TEST_IMAGES = 8, 60, 20
VIT = ViTConfig(
    image_size=SIDE,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
)
SETTINGS: dict[str, Any] = {
    "adapter": {"rank": 2, "alpha": 4.0},
    "local": {"batch_size": 8, "lr": 1e-2, "head_lr": 1e-2},
    "root": {"rounds": 2},
    "cluster": {"rounds": 2},
    "leaf": {"rounds": 2},
    "clustering": {"rule": "fixed", "k": 2, "skip_rounds": 0, "min_size": 1},
    "probe_steps": 3,
    "unseen_epochs": 2,
    "measure_every": 0,
}


def settings(**flags: Any) -> FederationConfig:
    """SETTINGS with changes, no controls; a double underscore stands for the dot: clustering__k."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    config = build(FederationConfig, overlay(SETTINGS, named), "test")
    return config if "controls" in flags else replace(config, controls=())


def backbone(seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViT(VIT)
        model.position_embeddings.data.normal_(0.0, 0.5)
        model.cls_token.data.normal_(0.0, 0.5)
    return Backbone.of("tiny", model, None, (), (0.5,) * 3, (0.25,) * 3)


def task(seed: int = 0) -> Classification:
    return Classification(backbone(seed).model, len(CLASSES))


def material() -> Material:
    """The backbone with the data set below."""
    return image_material(backbone(), dataset())


def save_backbone(folder: Path, seed: int = 0) -> Path:
    """The same backbone as a Hugging Face directory."""
    save_vit(folder, backbone(seed))
    return folder


def arrays() -> dict[str, Any]:
    """The data set as the arrays of an npz file."""
    rng = np.random.default_rng(7)
    each = TRAIN_IMAGES + TEST_IMAGES
    label = np.repeat(np.arange(len(CLASSES)), each)
    images = rng.integers(0, 90, size=(len(label), SIDE, SIDE, 3))
    for row, c in enumerate(label):
        top, left = 4 * (c // 2), 4 * (c % 2)
        images[row, top : top + 4, left : left + 4] += 120
    split = np.tile(np.repeat([TRAIN, TEST], [TRAIN_IMAGES, TEST_IMAGES]), len(CLASSES))
    return {
        "images": images.astype(np.uint8),
        "label": label.astype(np.int64),
        "split": split.astype(np.uint8),
        "class_names": np.array(CLASSES),
    }


def save_data(path: Path) -> Path:
    np.savez(path, **arrays())
    return path


def dataset() -> ImageDataset:
    held = arrays()
    return ImageDataset(
        ArraySource(held["images"]), held["label"], CLASSES, held["split"], title="tiny"
    )


def partition(clients: int = 8, unseen: int = 2, train: int = 12, test: int = 6) -> Partition:
    """Clients c-0, c-1, ...: even numbers in group 0, odd ones in group 1, the last held out."""
    each = TRAIN_IMAGES + TEST_IMAGES
    rows = []
    for n in range(clients):
        group, turn = n % 2, n // 2
        mine, shown = [], []
        for c in (2 * group, 2 * group + 1):
            start = c * each + turn * (train // 2)
            mine += range(start, start + train // 2)
            start = c * each + TRAIN_IMAGES + turn * (test // 2)
            shown += range(start, start + test // 2)
        rows.append(ClientRows(f"c-{n}", np.array(mine), np.array(shown), group))
    return Partition("tiny", tuple(rows), frozenset(r.name for r in rows[clients - unseen :]))


class Meddler:
    """A runtime with faults: `meddle` may change an update or, with None, lose it."""

    def __init__(self, inner: Runtime, meddle: Callable[[Work, Update], Update | None]) -> None:
        self.inner, self.meddle = inner, meddle
        self.works: list[Work] = []

    def train(self, works: Iterable[Work]) -> Iterator[Update]:
        for work in works:
            self.works.append(work)
            for update in self.inner.train([work]):
                changed = self.meddle(work, update)
                if changed is not None:
                    yield changed


def broken(update: Update) -> Update:
    """`update` with one NaN in its first factor."""
    name, pair = next(iter(update.pairs.items()))
    B = pair.B.clone()
    B[0, 0] = float("nan")
    return replace(update, pairs={**update.pairs, name: LoraPair(B, pair.A)})


def huge(update: Update, value: float = 1e20) -> Update:
    """`update` with finite factors whose mean product no float32 can hold."""
    pairs = {
        n: LoraPair(torch.full_like(p.B, value), torch.full_like(p.A, value))
        for n, p in update.pairs.items()
    }
    return replace(update, pairs=pairs)


def make_run(
    folder: Path,
    config: FederationConfig | None = None,
    *,
    parts: Partition | None = None,
    seed: int = 0,
    meddle: Callable[[Work, Update], Update | None] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    resumed: bool = False,
) -> Run:
    """A run that stands at its beginning in a new folder, or where `folder` left it."""
    config, parts, base = config or settings(), parts or partition(), backbone()
    store = RunFolder(folder, [c.name for c in parts.clients])
    if resumed:
        state = store.load()
    else:
        store.create({})
        state = RunState()
        store.save(state)
    run = assembly.make_run(
        config, seed, image_material(base, dataset()), parts, store, state, on_progress=on_progress
    )
    if meddle:
        run.runtime = Meddler(run.runtime, meddle)
    return run


def random_pair(seed: int, p: int = 12, q: int = 9, rank: int = 3) -> LoraPair:
    g = torch.Generator().manual_seed(seed)
    return LoraPair(B=torch.randn(p, rank, generator=g), A=torch.randn(rank, q, generator=g))


def random_pairs(seed: int, rank: int = 2) -> dict[str, LoraPair]:
    """Pairs of the tiny ViT's adapted modules, with B not zero."""
    return {
        name: random_pair(1000 * seed + n, VIT.hidden_size, VIT.hidden_size, rank)
        for n, name in enumerate(backbone().model.module_names())
    }


def random_head(seed: int, classes: int = len(CLASSES), hidden: int = VIT.hidden_size) -> Head:
    g = torch.Generator().manual_seed(seed)
    return Head(torch.randn(classes, hidden, generator=g), torch.randn(classes, generator=g))


def random_data(seed: int, images: int = 10) -> ClientData:
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, SIDE, SIDE, generator=g)
    return ClientData(pixels, torch.randint(0, len(CLASSES), (images,), generator=g))


def same_pairs(one: Mapping[str, LoraPair], other: Mapping[str, LoraPair]) -> bool:
    return set(one) == set(other) and all(
        torch.equal(p.A, other[n].A) and torch.equal(p.B, other[n].B) for n, p in one.items()
    )


def same_head(one: Head, other: Head) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)

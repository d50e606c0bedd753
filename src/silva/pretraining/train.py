"""Supervised pre-training of a Vision Transformer on one machine, resumable epoch by epoch.

A run walks through stages of growing image side, since early epochs learn as much from small images
at a quarter of the cost. Every epoch draws from generators seeded by (seed, epoch) alone, so an
interrupted run that resumes from its checkpoint ends with the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silva.adapters.tiers import Head
from silva.errors import ConfigError, DataError, RunError
from silva.models.backbone import Backbone
from silva.models.threads import one_thread_each
from silva.models.vit import ViT, ViTConfig
from silva.pretraining.augment import augment, cutmix
from silva.pretraining.checkpoint import FILE, make_folder, read_checkpoint, write_checkpoint
from silva.pretraining.config import PretrainConfig
from silva.pretraining.initialise import initialise, whiten_patches
from silva.pretraining.muon import Muon

CHUNK = 64
"""Images whose gradient one thread calculates at a time: what they need stays in the caches."""


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [n, 3, side, side] with labels int64 [n], values in [0, classes)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Pretrained:
    """A trained backbone, its head and the curve of the run."""

    backbone: ViT
    head: nn.Linear
    mean: tuple[float, ...]
    std: tuple[float, ...]
    curve: list[dict[str, float]]

    def as_backbone(self, name: str, class_names: tuple[str, ...]) -> Backbone:
        """The result as every other command takes it; one class name a row of the head."""
        head = Head(self.head.weight.detach(), self.head.bias.detach())
        return Backbone.of(name, self.backbone, head, class_names, self.mean, self.std)


class _Run:
    """Everything that changes while training: weights, optimisers, the curve."""

    def __init__(self, config: PretrainConfig, train: LabelledImages, pool: Executor) -> None:
        self.config, self.pool = config, pool
        self.train = train
        pixels = train.images[:: max(1, len(train.images) // 5000)].float() / 255
        self.mean = pixels.mean(dim=(0, 2, 3))
        self.std = pixels.std(dim=(0, 2, 3))
        shape = {k: v for k, v in asdict(config).items() if k in ViTConfig.__dataclass_fields__}
        self.backbone = ViT(ViTConfig(**shape))
        initialise(self.backbone, config.seed)
        whiten_patches(self.backbone, (pixels - self._mean()) / self._std(), config.seed)
        self.head = nn.Linear(config.hidden_size, int(train.labels.max()) + 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.model = nn.ModuleDict({"backbone": self.backbone, "head": self.head})
        named = list(self.model.named_parameters())
        matrices = [p for n, p in named if n.startswith("backbone.layers") and p.ndim == 2]
        rest = [p for n, p in named if not (n.startswith("backbone.layers") and p.ndim == 2)]
        decay = config.weight_decay
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(matrices, lr=config.muon_lr, weight_decay=decay, pool=pool),
            "adamw": torch.optim.AdamW(rest, lr=config.adamw_lr, weight_decay=decay),
        }
        self.rates = {"muon": config.muon_lr, "adamw": config.adamw_lr}
        self.steps_per_epoch = len(train.images) // config.batch_size
        self.curve: list[dict[str, float]] = []

    def _mean(self) -> Tensor:
        return self.mean.view(3, 1, 1)

    def _std(self) -> Tensor:
        return self.std.view(3, 1, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, s, s] -> float32 with mean 0 and deviation 1 in each channel."""
        return (images.float() / 255 - self._mean()) / self._std()

    def rate(self, step: int) -> float:
        """Share of the peak learning rates: the stages' lines behind a linear warm-up."""
        share = self.config.rate(step / self.steps_per_epoch)
        return min((step + 1) / self.config.warmup_steps, 1.0) * share

    def epoch(self, number: int) -> Iterator[float]:
        """Train one epoch, yielding the loss of each step."""
        config, stage = self.config, self.config.stage(number)
        generator = torch.Generator().manual_seed(config.seed * 100_003 + number)
        order = torch.randperm(len(self.train.images), generator=generator)
        for n in range(self.steps_per_epoch):
            for name, optimiser in self.optimisers.items():
                share = self.rate(number * self.steps_per_epoch + n)
                optimiser.param_groups[0]["lr"] = self.rates[name] * share
            rows = order[n * config.batch_size : (n + 1) * config.batch_size]
            pixels = self.normalise(self.train.images[rows])
            pixels = augment(pixels, stage.side, stage.smallest_crop, generator)
            targets = self.train.labels[rows]
            if stage.cutmix > 0:
                wanted = F.one_hot(targets, self.head.out_features).float()
                pixels, targets = cutmix(pixels, wanted, stage.cutmix, generator)
            loss = self._backward(pixels, targets)
            for optimiser in self.optimisers.values():
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            yield loss

    def _backward(self, pixels: Tensor, targets: Tensor) -> float:
        """Leave the gradient of the batch's mean loss in the parameters, and return that loss.

        targets: class numbers [n], or probabilities [n, classes].

        Chunks run side by side, a thread each, and are summed in their order: the result does not
        depend on the number of threads.
        """
        parameters = list(self.model.parameters())

        def chunk(part: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
            logits = self.head(self.backbone.features(part[0]))
            smoothing = self.config.label_smoothing
            loss = F.cross_entropy(logits, part[1], label_smoothing=smoothing, reduction="sum")
            loss = loss / len(targets)
            return loss.detach(), torch.autograd.grad(loss, parameters)

        parts = zip(pixels.split(CHUNK), targets.split(CHUNK), strict=True)
        done = list(self.pool.map(chunk, parts))
        for parameter, *gradients in zip(parameters, *(g for _, g in done), strict=True):
            parameter.grad = torch.stack(gradients).sum(dim=0)
        return float(sum(loss for loss, _ in done))

    @torch.no_grad()
    def accuracy(self, held_out: LabelledImages, side: int) -> float:
        """Top-1 on `held_out`, resized to `side` (area filter), one view an image."""
        hits = 0
        for rows in torch.arange(len(held_out.labels)).split(500):
            pixels = self.normalise(held_out.images[rows])
            if pixels.shape[-1] != side:
                pixels = F.interpolate(pixels, size=(side, side), mode="area")
            logits = self.head(self.backbone.features(pixels))
            hits += int((logits.argmax(dim=1) == held_out.labels[rows]).sum())
        return hits / len(held_out.labels)

    def save(self, folder: Path) -> None:
        """Write the state after a whole epoch."""
        about = {"curve": json.dumps(self.curve)}
        write_checkpoint(folder, self.model.state_dict(), self.optimisers, self.config, about)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote. Raises RunError when that is damaged or not this run."""
        with read_checkpoint(folder, self.optimisers, self.config) as (weights, about):
            self.curve = [dict(row) for row in json.loads(about["curve"])]
            self.model.load_state_dict(weights)


def _check(config: PretrainConfig, train: LabelledImages, held_out: LabelledImages) -> None:
    """Refuse what cannot be trained before anything is allocated."""
    if not config.stages:
        raise ConfigError("stages: the recipe has none", remedy="add a [[stages]] table")
    if config.hidden_size % config.num_attention_heads:
        raise ConfigError(
            f"num_attention_heads: {config.num_attention_heads} heads do not share "
            f"hidden_size = {config.hidden_size} evenly"
        )
    if min(config.image_size, *(stage.side for stage in config.stages)) < config.patch_size:
        raise ConfigError(f"patch_size: {config.patch_size} is more than the side of an image")
    if len(train.labels) < config.batch_size:
        raise DataError(
            f"{len(train.labels)} training images are less than one batch",
            remedy=f"set batch_size (now {config.batch_size}) to at most that number",
        )
    if not len(held_out.labels):
        raise DataError("no held-out images", remedy="training needs some to measure accuracy on")
    for images in (train.images, held_out.images):
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise DataError(
                f"images are {images.dtype} {list(images.shape)}, not uint8 [n, 3, s, s]"
            )


def pretrain(
    config: PretrainConfig,
    train: LabelledImages,
    held_out: LabelledImages,
    folder: Path,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Pretrained:
    """Train a backbone from scratch, or go on from the checkpoint in `folder`.

    `on_step` is called after every step with its number (from 1, over all epochs) and loss; what it
    raises ends the run, which the next call continues from the last whole epoch. Equal settings,
    images give equal weights, interrupted or not, whatever the number of threads.

    Raises ConfigError, DataError, and RunError for a damaged or foreign checkpoint or a loss that
    is no longer finite.
    """
    _check(config, train, held_out)
    with one_thread_each(torch.get_num_threads()) as pool:
        run = _Run(config, train, pool)
        _finish(run, held_out, folder, on_step)
    mean, std = tuple(run.mean.tolist()), tuple(run.std.tolist())
    return Pretrained(run.backbone, run.head, mean, std, run.curve)


def _finish(
    run: _Run, held_out: LabelledImages, folder: Path, on_step: Callable[[int, float], None]
) -> None:
    """Every epoch that is left, each followed by a checkpoint."""
    config = run.config
    make_folder(folder)
    if (folder / FILE).exists():
        run.load(folder)
    for number in range(len(run.curve), config.epochs):
        started, losses = time.perf_counter(), []
        for loss in run.epoch(number):
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss is {loss} in epoch {number + 1}",
                    remedy="start again with a lower muon_lr and adamw_lr",
                )
            losses.append(loss)
            on_step(number * run.steps_per_epoch + len(losses), loss)
        side = config.stage(number).side
        row = {
            "epoch": number + 1,
            "side": side,
            "loss": sum(losses) / len(losses),
            "accuracy": run.accuracy(held_out, side),
            "seconds": time.perf_counter() - started,
        }
        run.curve.append(row)
        run.save(folder)

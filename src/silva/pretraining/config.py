"""Settings of a pre-training run (no torch here: the command line reads them first)."""

from __future__ import annotations

from dataclasses import dataclass

from silva.config import setting


@dataclass(frozen=True)
class Stage:
    """`epochs` passes over the training images at `side` x `side` pixels."""

    side: int = setting(32, low=1, high=4096, help="height and width of the images")
    epochs: int = setting(1, low=1, high=100_000, help="passes over the training images")
    smallest_crop: float = setting(
        0.35, low=0.01, high=1.0, help="least share of the area that a random crop keeps"
    )
    first_rate: float = setting(
        1.0, low=0.0, high=1.0, help="share of the peak learning rates at the start of the stage"
    )
    last_rate: float = setting(
        0.0, low=0.0, high=1.0, help="the share at its end; in between it changes linearly"
    )
    cutmix: float = setting(
        0.0, low=0.0, high=1.0, help="share of the images that get a patch of another image"
    )


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe of a pre-training run; `recipes/pretrain/*.toml` hold the ones that were run."""

    stages: tuple[Stage, ...]
    hidden_size: int = setting(192, low=1, high=16_384, help="width of the tokens")
    num_hidden_layers: int = setting(6, low=1, high=512, help="blocks")
    num_attention_heads: int = setting(6, low=1, high=512, help="heads; they divide the width")
    intermediate_size: int = setting(768, low=1, high=131_072, help="width of the MLPs")
    image_size: int = setting(32, low=1, high=4096, help="side that the positions belong to")
    patch_size: int = setting(4, low=1, high=1024, help="side of a patch")
    batch_size: int = setting(256, low=1, high=65_536, help="images a step")
    muon_lr: float = setting(3e-3, low=0.0, high=10.0, help="peak rate of the block matrices")
    adamw_lr: float = setting(1e-3, low=0.0, high=10.0, help="peak rate of everything else")
    weight_decay: float = setting(0.05, low=0.0, high=10.0, help="decoupled weight decay")
    label_smoothing: float = setting(0.1, low=0.0, high=0.99, help="share spread over all classes")
    warmup_steps: int = setting(100, low=1, high=1_000_000, help="steps of linear warm-up")
    seed: int = setting(0, low=0, high=1_000_000_000, help="of weights, order and augmentation")

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)

    def stage(self, epoch: int) -> Stage:
        """The stage that epoch number `epoch` (from 0) belongs to."""
        return self._place(epoch)[0]

    def rate(self, epochs: float) -> float:
        """Share of the peak learning rates after `epochs` epochs, whole or not."""
        stage, inside = self._place(epochs)
        return stage.first_rate + (stage.last_rate - stage.first_rate) * inside / stage.epochs

    def _place(self, epochs: float) -> tuple[Stage, float]:
        """The stage that runs after `epochs` epochs, and how many of them lie in it."""
        for stage in self.stages[:-1]:
            if epochs < stage.epochs:
                return stage, epochs
            epochs -= stage.epochs
        return self.stages[-1], epochs

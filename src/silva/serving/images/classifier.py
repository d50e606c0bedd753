"""One batch of images of many clients through a Vision Transformer: sorted by path, then by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from silva.errors import ServingError
from silva.models.backbone import Backbone
from silva.models.mixed import PackedTier, runs_of
from silva.models.mixed_vit import mixed_logits
from silva.serving.engine.tiers import Tiers


@dataclass(frozen=True)
class Picture:
    """One image, decoded, and the digests of the adapters that answer for it."""

    pixels: NDArray[np.uint8]
    """[side, side, 3]"""
    path: tuple[str, ...]


Chances = NDArray[np.float32]
"""Probability of each class."""


class Classifier:
    """Answers for pictures of any mixture of paths. For one thread."""

    def __init__(self, backbone: Backbone, tiers: Tiers | None = None) -> None:
        """Without `tiers` there is the backbone's own head alone, if it has one."""
        self._backbone, self._tiers = backbone, tiers
        head = backbone.head
        self._base = None if head is None else (PackedTier({}, head),)

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return self._backbone.side

    def answer(self, pictures: Sequence[Picture]) -> list[Chances | ServingError]:
        """Probabilities for each picture, or why there are none; one pass for all that have some."""
        found: list[Chances | ServingError | None] = [None] * len(pictures)
        held: dict[int, tuple[PackedTier, ...]] = {}
        for n, picture in enumerate(pictures):
            try:
                held[n] = self._hold(picture.path)
            except ServingError as error:
                found[n] = error
        try:
            order = sorted(held, key=lambda n: pictures[n].path)
            for n, chances in zip(order, self._computed(pictures, order, held), strict=True):
                found[n] = chances
        finally:
            for n in held:
                if pictures[n].path and self._tiers is not None:
                    self._tiers.release(pictures[n].path)
        return [each for each in found if each is not None]

    def _computed(
        self,
        pictures: Sequence[Picture],
        order: Sequence[int],
        held: dict[int, tuple[PackedTier, ...]],
    ) -> list[Chances]:
        if not order:
            return []
        paths = [held[n] for n in order]
        pixels = self._backbone.pixels(np.stack([pictures[n].pixels for n in order]))
        runs = runs_of(paths, np.ones(len(order), np.int32))
        with torch.inference_mode():
            logits = mixed_logits(self._backbone.model, pixels, paths, runs)
            return [each.softmax(0).numpy() for each in logits]

    def _hold(self, path: tuple[str, ...]) -> tuple[PackedTier, ...]:
        if path:
            if self._tiers is None:
                raise ServingError("no forest is served", remedy="serve one")
            return self._tiers.hold(path)
        if self._base is None:
            what = "the model has no head of its own"
            raise ServingError(what, remedy="name a client of the forest")
        return self._base

"""What a head is trained on where nothing below it changes, kept from one pass to the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from silva.federation.features import features_of
from silva.models.layers import Adaptation
from silva.models.vit import ViT


class FixedFeatures(threading.local):
    """`features_of` one model, which remembers the last answer of each thread.

    One is enough, and no more is held: the passes of a client that trains alone follow each other in
    one thread. What was asked is told by its content, since pairs come back as new tensors from every
    pass.
    """

    def __init__(self, model: ViT) -> None:
        self._model = model
        self._asked: list[tuple[str, Tensor]] = []
        self._features = torch.empty(0)

    def __call__(self, model: ViT, pixels: Tensor, adaptation: Adaptation) -> Tensor:
        """Class tokens of all images [n, hidden]. Not to be changed by the caller."""
        assert model is self._model
        asked = [("pixels", pixels), *_contents(adaptation)]
        if not _same(asked, self._asked):
            self._features = features_of(model, pixels, adaptation)
            self._asked = asked
        return self._features


def _contents(adaptation: Adaptation) -> Iterator[tuple[str, Tensor]]:
    yield str(adaptation.matmul), torch.empty(0)
    yield from adaptation.merged.items()
    for name, branches in adaptation.branches.items():
        for pair, scaling in branches:
            yield f"{name} {scaling}", pair.B
            yield name, pair.A


def _same(one: list[tuple[str, Tensor]], other: list[tuple[str, Tensor]]) -> bool:
    return [name for name, _ in one] == [name for name, _ in other] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True)
    )

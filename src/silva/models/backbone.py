"""A backbone as the rest of silva sees it: model, head, classes and the pixels it expects."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.adapters.tiers import Head
from silva.errors import ModelError
from silva.models.vit import ViT


@dataclass(frozen=True)
class Backbone:
    """A frozen foundation model. Equal digests mean equal logits for equal images.

    id           what `load_backbone` was asked for: a shipped name, or a directory
    digest       SHA-256 of weights, shape and normalisation, whatever file they came from
    head         the classifier the model came with; None for a bare ViTModel
    class_names  one a row of the head
    mean, std    of the pixels in [0, 1], one a channel
    side         height and width of the images to feed, in pixels
    """

    id: str
    digest: str
    model: ViT
    head: Head | None
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int

    @classmethod
    def of(
        cls,
        name: str,
        model: ViT,
        head: Head | None,
        class_names: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        side: int | None = None,
    ) -> Backbone:
        """Freeze `model` in place, compute the digest; `side` is the model's own unless given."""
        model.requires_grad_(False).eval()
        side = model.config.image_size if side is None else side
        digest = _digest(model, head, {"mean": mean, "std": std, "side": side})
        return cls(name, digest, model, head, class_names, mean, std, side)

    def pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 [n, s, s, 3] -> normalised float32 [n, 3, s, s]. Raises ModelError on others."""
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ModelError(
                f"images are {images.dtype} {list(images.shape)}",
                remedy="the model takes uint8 [n, side, side, 3]",
            )
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32, order="C"))
        mean, std = (torch.tensor(t).view(3, 1, 1) for t in (self.mean, self.std))
        return x.mul_(1 / (255 * std)).sub_(mean / std)

    def tensors(self) -> dict[str, Tensor]:
        """All weights by silva's names, the head's as `head.weight` and `head.bias`."""
        return _tensors(self.model, self.head)


def _tensors(model: ViT, head: Head | None) -> dict[str, Tensor]:
    tensors = {name: t.detach() for name, t in model.state_dict().items()}
    if head is not None:
        tensors |= {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
    return tensors


def _digest(model: ViT, head: Head | None, pixels: dict[str, object]) -> str:
    """SHA-256 over names, types, shapes and bytes, sorted by name.

    The shape of the model and its normalisation are part of it: the same tensors cut into other
    heads, or fed other pixels, are another function.
    """
    settings = {"vit": asdict(model.config), **pixels}
    state = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(_tensors(model, head).items()):
        state.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()

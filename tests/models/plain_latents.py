"""A plain memory of latents, which grows with its sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from silva.models.latent import Form, LatentHeads, attend_latents


class PlainLatents:
    """A `LatentAttend` over several sequences: latents in growing tensors."""

    def __init__(self, form: Form = "auto") -> None:
        self.form: Form = form
        self.kept: dict[tuple[str, int], torch.Tensor] = {}
        self._parts: list[tuple[str, int]] = []

    def step(self, parts: Sequence[tuple[str, int]]) -> None:
        """Sequence and number of tokens, in the order in which the step holds them."""
        self._parts = list(parts)

    def __call__(
        self, layer: int, q: torch.Tensor, latent: torch.Tensor, heads: LatentHeads
    ) -> torch.Tensor:
        out, start = [], 0
        for sequence, length in self._parts:
            here = slice(start, start + length)
            old = self.kept.get((sequence, layer))
            kept = latent[here] if old is None else torch.cat([old, latent[here]])
            self.kept[sequence, layer] = kept
            out.append(attend_latents(q[here], kept, heads, self.form))
            start += length
        return torch.cat(out)

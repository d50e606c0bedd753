"""Which adapters the rows of a pass go through: one sort a pass, by path, that serves every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silva.models.mixed import PackedTier, Run, runs_of
from silva.serving.engine.passes import Pass


@dataclass(frozen=True)
class Sorted:
    """A pass in the order of its paths."""

    step: Pass
    """Its arrays by sequence and by token; nothing is said of drafts and samples."""
    places: NDArray[np.int64]
    """[tokens] where each of its tokens is in the pass as it was."""
    runs: Sequence[Run]

    def back(self, hidden: Tensor) -> Tensor:
        """What was computed for the tokens [tokens, ...], in the order of the pass as it was."""
        out = torch.empty_like(hidden)
        out[torch.from_numpy(self.places)] = hidden
        return out


@dataclass(frozen=True)
class _Path:
    digests: tuple[str, ...]
    tiers: tuple[PackedTier, ...]


_BASE = _Path((), ())


class Mix:
    """The adapters of all requests that have a slot."""

    def __init__(self) -> None:
        self._paths: dict[int, _Path] = {}
        """By slot; of those that have adapters."""
        self._last: tuple[bytes, list[int], NDArray[np.int64], list[Run]] | None = None
        """Sequences and counts of the last pass, their order, places and runs: most steps repeat it."""

    def enter(self, slot: int, digests: tuple[str, ...], tiers: tuple[PackedTier, ...]) -> None:
        """A request with a path has this slot from now on."""
        self._last = None
        if digests:
            self._paths[slot] = _Path(digests, tiers)

    def leave(self, slot: int) -> None:
        """The slot is free."""
        self._last = None
        self._paths.pop(slot, None)

    def sort(self, step: Pass) -> Sorted | None:
        """The pass in the order of its paths; None where nothing in it has adapters."""
        if not self._paths:
            return None
        about = step.slots.tobytes() + step.counts.tobytes()
        if self._last is None or self._last[0] != about:
            paths = [self._paths.get(slot, _BASE) for slot in step.slots.tolist()]
            order = sorted(range(len(paths)), key=lambda n: paths[n].digests)
            runs = runs_of([paths[n].tiers for n in order], step.counts[order])
            self._last = (about, order, step.places(order), runs)
        _, order, places, runs = self._last
        if not runs:
            return None
        return Sorted(step.ordered(order, places), places, runs)

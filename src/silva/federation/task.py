"""The seam between the cascade and what it tunes: a frozen model and what its clients learn with it.

The cascade knows pairs, tiers and rounds. What an example is, how its loss comes about and which
figure says how good a client's model is, a `Task` knows: `classification.py` for a Vision Transformer
and images, `language.py` for a causal language model and windows of text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from silva.adapters.tiers import AdapterPath, Head
from silva.federation.config import FederationConfig
from silva.federation.figures import Figure
from silva.federation.record import Score
from silva.models.layers import Adaptation


class Examples(Protocol):
    """One client's data on one side, training or test, ready for the model."""

    def __len__(self) -> int:
        """How many examples there are."""
        ...


Data_contra = TypeVar("Data_contra", bound=Examples, contravariant=True)

Objective = Callable[[Tensor, Head], Tensor]
"""The mean loss of examples by number (int64 [n], on the CPU) under a head, with its gradients."""


class Reads(Protocol[Data_contra]):
    """What heads of a task read, where tiers have heads of their own."""

    @property
    def classes(self) -> int:
        """Rows of a head."""
        ...

    @property
    def hidden(self) -> int:
        """Numbers that a head reads of an example."""
        ...

    @property
    def longest(self) -> float:
        """The norm that no example's features exceed."""
        ...

    def features(self, data: Data_contra) -> Tensor:
        """Of the bare base model, [examples, hidden], on the CPU."""
        ...

    def labels(self, data: Data_contra) -> Tensor:
        """int64 [examples]."""
        ...


class Task(Protocol[Data_contra]):
    """A frozen model, and what it is trained and judged by. Any thread may ask.

    Weights by module name are those that the adapters replace, on the CPU; `merged` of the methods
    below holds such weights of base and tiers, wherever they are.
    """

    @property
    def figure(self) -> Figure:
        """What clients' models are judged by."""
        ...

    @property
    def reads(self) -> Reads[Data_contra] | None:
        """What heads read; None where the model's own head is frozen and serves everybody."""
        ...

    @property
    def at_once(self) -> int:
        """Examples that go through the model together in training, at most."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        ...

    def settled(self, config: FederationConfig) -> FederationConfig:
        """The settings as they hold for this task; ConfigError for one that means nothing to it."""
        ...

    def base(self, projections: tuple[str, ...]) -> dict[str, Tensor]:
        """Weights [out, in] of the base by module, of every block's `projections`."""
        ...

    def merged(self, path: AdapterPath) -> Mapping[str, Tensor]:
        """Weights of base and tiers of `path`. Raises ModelError where a pair does not fit."""
        ...

    def objective(self, data: Data_contra, adaptation: Adaptation, *, fixed: bool) -> Objective:
        """How the loss on `data` comes about. `adaptation` is on `device`.

        fixed: its pairs stay as they are, so that what lies below the head is computed once.
        """
        ...

    def measure(self, data: Data_contra, merged: Mapping[str, Tensor], head: Head) -> Score:
        """How good the model is on `data`."""
        ...

    def mean_loss(self, data: Data_contra, merged: Mapping[str, Tensor], head: Head) -> float:
        """Mean loss on `data`: what loss-based routing compares (IFCA's rule)."""
        ...

"""What one client does with the tier it is sent: a few local epochs on its own data.

Tiers above the trained one are frozen. They are merged once into copies of the few adapted weights
(`Adaptation.merged`), so a step costs one pair whatever the depth of the path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from silva.adapters.tiers import Head, LoraPair
from silva.federation.config import LocalConfig
from silva.federation.orthogonality import Frozen, joint_basis, penalty, project
from silva.federation.task import Data_contra, Task
from silva.models.layers import Adaptation

MATMUL = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """One client's task in one round.

    `merged` holds the weights of base plus frozen tiers by module; `pairs` and `head` are where
    training starts. A part named in neither `train_pairs` nor `train_head` stays as it is. `seed`
    decides the order of the images and nothing else.
    """

    client: str
    merged: Mapping[str, Tensor]
    pairs: Mapping[str, LoraPair]
    head: Head
    scaling: float
    epochs: int
    seed: int
    rate: float = 1.0
    max_steps: int = 0
    train_pairs: bool = True
    train_head: bool = True
    frozen: tuple[Frozen, ...] = ()
    orthogonality: str = "none"

    def to(self, device: torch.device) -> Work:
        """The same task with every tensor on `device`."""
        head = Head(self.head.weight.to(device), self.head.bias.to(device))
        return replace(
            self,
            merged={n: w.to(device) for n, w in self.merged.items()},
            pairs={n: LoraPair(p.B.to(device), p.A.to(device)) for n, p in self.pairs.items()},
            head=head,
            frozen=tuple(f.to(device) for f in self.frozen),
        )


@dataclass(frozen=True)
class Update:
    """What a client sends back: its trained pair and head, and how the work went.

    `seconds_compute` were spent in forward and backward passes and optimiser steps; reading images,
    the penalty's forward pass, clipping and projecting are not among them. `rejected` counts the
    passes that were undone as not believable, where several passes are one. `images` are the client's
    training examples, whatever they are.
    """

    client: str
    pairs: Mapping[str, LoraPair]
    head: Head
    images: int
    loss: float
    seconds: float
    seconds_compute: float
    rejected: int = 0

    def finite(self) -> bool:
        """False when any number is NaN or infinite: such an update is rejected."""
        tensors = [t for p in self.pairs.values() for t in (p.A, p.B)]
        tensors += [self.head.weight, self.head.bias]
        return all(bool(torch.isfinite(t).all()) for t in tensors)

    def bytes(self) -> int:
        """Size of what travels up: pair and head."""
        return payload_bytes(self.pairs, self.head)


def payload_bytes(pairs: Mapping[str, LoraPair], head: Head) -> int:
    """Bytes of one pair of tensors per module and a head, as they travel."""
    tensors = [t for p in pairs.values() for t in (p.A, p.B)] + [head.weight, head.bias]
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass
class _Trainable:
    """Leaf tensors under training."""

    pairs: dict[str, LoraPair]
    head: Head
    parameters: list[dict[str, object]] = field(default_factory=list)

    @property
    def factors(self) -> dict[str, Tensor]:
        return {name: pair.B for name, pair in self.pairs.items()}

    def tensors(self) -> list[Tensor]:
        return [p for group in self.parameters for p in group["params"]]  # type: ignore[attr-defined]


class _Clock:
    """Adds up the seconds spent inside."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._since


def _trainable(work: Work, local: LocalConfig) -> _Trainable:
    def leaf(tensor: Tensor, train: bool) -> Tensor:
        return tensor.detach().clone().requires_grad_(train)

    pairs = {
        n: LoraPair(B=leaf(p.B, work.train_pairs), A=leaf(p.A, work.train_pairs))
        for n, p in work.pairs.items()
    }
    head = Head(leaf(work.head.weight, work.train_head), leaf(work.head.bias, work.train_head))
    groups: list[dict[str, object]] = []
    if work.train_pairs:
        factors = [t for p in pairs.values() for t in (p.A, p.B)]
        groups.append({"params": factors, "lr": local.lr * work.rate, "weight_decay": 0.0})
    if work.train_head:
        decay = {"lr": local.head_lr * work.rate, "weight_decay": local.weight_decay}
        groups.append({"params": [head.weight, head.bias], **decay})
    return _Trainable(pairs, head, groups)


def train_client(
    task: Task[Data_contra], data: Data_contra, work: Work, local: LocalConfig
) -> Update:
    """Train for `work.epochs` passes (or `work.max_steps` steps) with a fresh AdamW.

    Loss = the task's + orthogonality penalty, gradients clipped to `local.clip`; deterministic
    for a given seed and thread count on a CPU. Computes where the model is; data, task and update
    are on the CPU. A step of more examples than the task takes `at_once` adds up their gradients.
    """
    started, loss_sum, seen, arithmetic = time.perf_counter(), 0.0, 0, _Clock()
    work = work.to(task.device)
    state = _trainable(work, local)
    adaptation = Adaptation(
        merged=work.merged,
        branches={n: ((p, work.scaling),) for n, p in state.pairs.items()},
        matmul=MATMUL[local.matmul],
    )
    optimiser = torch.optim.AdamW(state.parameters)
    bases = [joint_basis(work.frozen)] if work.orthogonality == "hard" and work.frozen else []
    objective = task.objective(data, adaptation, fixed=not work.train_pairs)
    for rows in _batches(len(data), work, local.batch_size):
        *before, last = rows.split(task.at_once)
        for part in before:
            with arithmetic:
                loss = objective(part, state.head) * (len(part) / len(rows))
                loss.backward()
            loss_sum += float(loss.detach()) * len(rows)
        with arithmetic:
            loss = objective(last, state.head) * (len(last) / len(rows))
        total = loss
        if work.train_pairs:
            total = loss + penalty(state.factors, work.frozen, work.orthogonality)
        with arithmetic:
            total.backward()
        if local.clip > 0:
            torch.nn.utils.clip_grad_norm_(state.tensors(), local.clip)
        with arithmetic:
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if bases:
            project(state.factors, bases)
        loss_sum += float(loss.detach()) * len(rows)
        seen += len(rows)
    return Update(
        client=work.client,
        pairs={n: LoraPair(_sent(p.B), _sent(p.A)) for n, p in state.pairs.items()},
        head=Head(_sent(state.head.weight), _sent(state.head.bias)),
        images=len(data),
        loss=loss_sum / max(seen, 1),
        seconds=time.perf_counter() - started,
        seconds_compute=arithmetic.seconds,
    )


def _sent(tensor: Tensor) -> Tensor:
    """A trained tensor as it leaves the client: without history, on the CPU."""
    return tensor.detach().cpu()


def _batches(examples: int, work: Work, size: int) -> list[Tensor]:
    """Row numbers of every step: shuffled epochs, cut at `work.max_steps` where that is set."""
    generator = torch.Generator().manual_seed(work.seed)
    steps: list[Tensor] = []
    for _ in range(work.epochs):
        steps += torch.randperm(examples, generator=generator).split(size)
    return steps[: work.max_steps] if work.max_steps else steps

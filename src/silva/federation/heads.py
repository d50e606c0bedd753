"""The first head: linear discriminants from statistics that clients send once.

Fine-tuning few rounds from a zero head spends them on finding the classes. Class sums and the Gram
matrix of frozen features add up over clients exactly, and give the head that linear discriminant
analysis would find on all data together (Hastie et al., Elements of Statistical Learning, 4.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from silva.adapters.tiers import NO_HEAD, Head
from silva.federation.client import payload_bytes
from silva.federation.record import Round
from silva.federation.replies import ROUNDING
from silva.federation.run import Progress, Run
from silva.federation.task import Data_contra, Reads

LEAST_SHRINKAGE = 0.1
"""Share of the pooled covariance that is replaced by a multiple of the identity, at least."""


@dataclass(frozen=True)
class ClassStatistics:
    """Sufficient statistics of one or more clients' features.

    counts [classes], sums [classes, hidden], gram [hidden, hidden] = sum of x x^T.
    """

    counts: Tensor
    sums: Tensor
    gram: Tensor


def class_statistics(reads: Reads[Data_contra], data: Data_contra) -> ClassStatistics:
    """Statistics of the bare base model's features on one client's images."""
    features, labels = reads.features(data), reads.labels(data)
    sums = torch.zeros(reads.classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=reads.classes).float()
    return ClassStatistics(counts, sums, features.T @ features)


def possible(statistics: ClassStatistics, images: int, longest: float) -> bool:
    """Whether `images` features no longer than `longest` can add up to `statistics`; NaN cannot."""
    counts, sums, gram = statistics.counts, statistics.sums, statistics.gram
    most = longest * (1 + ROUNDING)
    counted = float(counts.sum()) == images and bool((counts >= 0).all())
    near = bool((sums.norm(dim=1) <= counts * most).all())
    return counted and near and bool((gram.abs() <= images * most**2).all())


def statistics_bytes(classes: int, hidden: int) -> int:
    """Size of what a client sends: float32 counts, sums and Gram matrix."""
    return 4 * (classes + classes * hidden + hidden * hidden)


def discriminant_head(statistics: Sequence[ClassStatistics]) -> Head:
    """Head of linear discriminant analysis with equal priors, from the clients' sums.

    logit_c = mu_c^T S^-1 x - mu_c^T S^-1 mu_c / 2, S the pooled covariance within classes, shrunk as
    `shrinkage` says. Classes without an image get the smallest bias and a zero weight.
    """
    counts = torch.stack([s.counts for s in statistics]).sum(dim=0).double()
    sums = torch.stack([s.sums for s in statistics]).sum(dim=0).double()
    gram = torch.stack([s.gram for s in statistics]).sum(dim=0).double()
    means = sums / counts.clamp(min=1)[:, None]
    within = (gram - (means.T * counts) @ means) / counts.sum().clamp(min=1)
    scale = within.diagonal().mean().clamp(min=1e-8)
    share = shrinkage(within, float(counts.sum() - (counts > 0).sum()))
    within = (1 - share) * within + share * scale * torch.eye(len(within)).double()
    weight = torch.linalg.solve(within, means.T).T
    bias = -0.5 * (weight * means).sum(dim=1)
    known = counts > 0
    bias = torch.where(known, bias, bias[known].min() if bool(known.any()) else bias)
    return Head(weight=weight.float(), bias=bias.float())


def shrinkage(within: Tensor, freedom: float) -> float:
    """Share of a covariance [p, p] of so many degrees of freedom to be replaced by the identity's.

    The oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero, IEEE Transactions on Signal
    Processing 58, 2010, equation 23), which needs no more than the covariance itself, and never less
    than `LEAST_SHRINKAGE`: with few images most directions of features are known from none.
    """
    size = len(within)
    square, trace = float(within.square().sum()), float(within.trace())
    spread = (freedom + 1 - 2 / size) * (square - trace**2 / size)
    if spread <= 0:  # no freedom, or the identity's multiple already
        return 1.0
    return min(1.0, max(LEAST_SHRINKAGE, ((1 - 2 / size) * square + trace**2) / spread))


def zero_head(classes: int, hidden: int) -> Head:
    """The head that prefers no class."""
    return Head(weight=torch.zeros(classes, hidden), bias=torch.zeros(classes))


def agree_on_head(run: Run, names: Sequence[str]) -> Head:
    """The head that the root starts from; what clients send for it is a round of its own on record."""
    started, reads = time.perf_counter(), run.task.reads
    if reads is None:
        return NO_HEAD
    heard = believed_statistics(
        run, reads, names, lambda n: run.on_progress(Progress("head", n, len(names), names[n - 1]))
    )
    head = _head_of(reads, heard)
    asked = run.config.head_init == "discriminant"
    sent = statistics_bytes(*head.weight.shape) if asked else 0
    rejected = len(names) - len(heard) if asked else 0
    run.state.record.rounds.append(
        Round(
            stage="head",
            cluster=-1,
            round=0,
            participants=len(names) - rejected,
            rejected=rejected,
            dropped=0,
            loss=0.0,
            rho=0.0,
            trunc_energy=0.0,
            bytes_up=sent * len(names),
            bytes_down=payload_bytes({}, head) * len(names),
            seconds=time.perf_counter() - started,
            seconds_compute=0.0,
        )
    )
    return head


def first_head(run: Run, names: Sequence[str]) -> Head:
    """The starting head of a group of clients, as `head_init` says."""
    reads = run.task.reads
    return NO_HEAD if reads is None else _head_of(reads, believed_statistics(run, reads, names))


def believed_statistics(
    run: Run,
    reads: Reads[Any],
    names: Sequence[str],
    after: Callable[[int], None] = lambda asked: None,
) -> list[ClassStatistics]:
    """What clients send for the first head, without what their images cannot add up to.

    `after` hears how many clients have been asked.
    """
    longest, believed = reads.longest, []
    asked = names if run.config.head_init == "discriminant" else ()
    for number, name in enumerate(asked, start=1):
        statistics = class_statistics(reads, run.clients.train(name))
        if possible(statistics, run.images[name], longest):
            believed.append(statistics)
        after(number)
    return believed


def _head_of(reads: Reads[Any], statistics: Sequence[ClassStatistics]) -> Head:
    if not statistics:
        return zero_head(reads.classes, reads.hidden)
    return discriminant_head(statistics)

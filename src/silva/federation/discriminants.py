"""Linear discriminants from class sums: what `heads.py` makes the first head from.

Class sums and the Gram matrix of features add up over clients exactly, and give the head that linear
discriminant analysis would find on all data together (Hastie et al., Elements of Statistical Learning,
4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silva.adapters.tiers import Head
from silva.federation.replies import ROUNDING

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


def statistics_of(features: Tensor, labels: Tensor, classes: int) -> ClassStatistics:
    """Statistics of features [n, hidden] of images with labels [n]."""
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=classes).float()
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

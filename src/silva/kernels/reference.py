"""The plain twins of the compiled operators: what they compute, in a few lines of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def projector_overlap(bases: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over m of ||U_i^T U_j||_F^2 / r for bases [n, m, p, r]: float64 [n, n].

    One client against all later ones at a time, so memory grows with n r^2 and not with (n r)^2.
    """
    clients, modules, _, rank = bases.shape
    sums = np.zeros((clients, clients))
    for i in range(clients):
        for module in range(modules):
            products = np.tensordot(bases[i, module], bases[i:, module], axes=(0, 1))
            sums[i, i:] += np.square(products, dtype=np.float64).sum(axis=(0, 2))
    upper = np.triu(sums) / (modules * rank)
    return upper + np.triu(upper, k=1).T

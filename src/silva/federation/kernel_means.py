"""K-means in the space that a matrix of similarities spans: single items move while spread falls.

Trees merge clusters and never take one apart, so an item that joined early stays where it is no longer
at home. The method is Hartigan's (Hartigan and Wong, Applied Statistics 28, 1979), with a kernel
instead of coordinates (Dhillon et al., KDD 2004): no mean is ever computed, only sums of similarities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
PASSES = 100
"""Over all items. Each move lowers the spread, so few are needed; the limit is against rounding."""
LEAST_GAIN = 1e-12


def settled(similarity: Matrix, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """`labels` [n] from 0, after every move of one item that lowers the sum of squared distances.

    similarity [n, n] is symmetric; the squared distance of an item from a cluster's mean is
    s_ii - 2 mean_j s_ij + mean_jk s_jk over members j, k. No cluster is left empty.
    """
    labels = labels.copy()
    clusters = int(labels.max()) + 1
    members = np.eye(clusters)[labels]
    sizes, inner = members.sum(axis=0), np.einsum("ic,ij,jc->c", members, similarity, members)
    for _ in range(PASSES):
        moved = False
        for i, here in enumerate(labels):
            if sizes[here] == 1:
                continue
            to = similarity[i] @ members
            squared = similarity[i, i] - 2.0 * to / sizes + inner / sizes**2
            cost = squared * sizes / (sizes + 1.0)  # what joining adds
            cost[here] = squared[here] * sizes[here] / (sizes[here] - 1.0)  # what leaving saves
            there = int(cost.argmin())
            if cost[there] > cost[here] - LEAST_GAIN:
                continue
            inner[here] -= 2.0 * to[here] - similarity[i, i]
            inner[there] += 2.0 * to[there] + similarity[i, i]
            members[i, here], members[i, there] = 0.0, 1.0
            sizes[here], sizes[there] = sizes[here] - 1.0, sizes[there] + 1.0
            labels[i], moved = there, True
        if not moved:
            break
    return labels

"""How frequent each class is with a cluster's clients, and with one client: part of every version.

    groups     m_k                                     estimated from the members' counts
    members    p_i = (n_i + a m_k) / (|n_i| + a)       i in group k, n_i: its images of each class
    alone      p_i = (n_i + a / C) / (|n_i| + a)       of its own images alone, C classes

The latter are means of Dirichlet posteriors; `silva.federation.labels` estimates m and a. A client that
joins a finished forest needs them as much as one that grew it. Frequencies of a cluster with few
clients tell much about these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silva.adapters.fields import Reader, fits, listed, mapping, number

Floats = NDArray[np.float64]

_MOST_NAMES = 1_000_000
_LEAST_SHARE = 1e-12
_OFF = 1e-3
"""What frequencies may be off in sum, being rounded."""


@dataclass(frozen=True)
class LabelPriors:
    """What all training clients together say about labels.

    groups: m_k by cluster; empty where there are no clusters. of_clients: the concentration a, in
    images of all classes together.
    """

    groups: Mapping[str, list[float]]
    of_clients: float

    def group(self, cluster: str | None, classes: int) -> Floats:
        """How frequent classes are with a cluster's members [classes]; alike where it is not known."""
        if cluster is None or cluster not in self.groups:
            return even(classes)
        return np.array(self.groups[cluster])

    def member(self, cluster: str | None, counts: Floats) -> Floats:
        """How frequent classes are with a client of `cluster` who has `counts` images of each."""
        return frequencies(counts, self.group(cluster, len(counts)), self.of_clients)

    def alone(self, counts: Floats) -> Floats:
        """How frequent classes are with a client of whom nothing but `counts` is known."""
        return frequencies(counts, even(len(counts)), self.of_clients)

    def as_plain(self) -> dict[str, Any]:
        """Plain JSON types; `label_priors` is its inverse."""
        return vars(self) | {"groups": {name: list(row) for name, row in self.groups.items()}}


def label_priors(plain: object, classes: int, where: object) -> LabelPriors:
    """Check what a version file says of labels; ForestError names the field that is wrong."""
    reader = Reader(plain, "labels", where)
    groups = reader.get("groups", mapping(_MOST_NAMES))
    for row in groups.values():
        whole = fits(listed(classes), row) and len(row) == classes
        shares = whole and all(fits(number(_LEAST_SHARE, 1.0), share) for share in row)
        if not shares or abs(sum(row) - 1) > _OFF:
            raise reader.error("groups", f"must be frequencies of {classes} classes by cluster")
    priors = LabelPriors(groups, reader.get("of_clients", number(1e-9, 1e9)))
    reader.finish()
    return priors


def frequencies(counts: Floats, measures: Floats, s: float) -> Floats:
    """Mean of the posterior [..., classes]: counts under a prior of s images spread as `measures`."""
    return (counts + s * measures) / (counts.sum(axis=-1, keepdims=True) + s)


def even(classes: int) -> Floats:
    """All classes alike [classes]."""
    return np.full(classes, 1 / classes)

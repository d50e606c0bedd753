"""How frequent each class is with a cluster's clients, and with one client: part of every version.

    groups     m_k = (n_k + g / C) / (|n_k| + g)       n_k: images of each of C classes in group k
    members    p_i = (n_i + s m_k) / (|n_i| + s)       i in group k; without groups all m are 1 / C
    alone      p_i = (n_i + a / C) / (|n_i| + a)       of its own images alone

These are means of Dirichlet posteriors; `silva.federation.labels` estimates g, s and a. A client that
joins a finished forest needs them as much as one that grew it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silva.adapters.fields import Reader, fits, integer, listed, mapping, number

Floats = NDArray[np.float64]

_MOST_IMAGES, _MOST_NAMES = 10**12, 1_000_000


@dataclass(frozen=True)
class LabelPriors:
    """What all training clients together say about labels.

    groups: by cluster, its members' images of each class; empty where there are no clusters.
    of_groups, of_members, of_clients: the concentrations g, s and a, in images of all classes.
    """

    groups: Mapping[str, list[int]]
    of_groups: float
    of_members: float
    of_clients: float

    def group(self, cluster: str | None, classes: int) -> Floats:
        """How frequent classes are with a cluster's members [classes]; alike where it is not known."""
        if cluster is None or cluster not in self.groups:
            return even(classes)
        counts = np.array(self.groups[cluster], dtype=float)
        return frequencies(counts, even(classes), self.of_groups)

    def member(self, cluster: str | None, counts: Floats) -> Floats:
        """How frequent classes are with a client of `cluster` who has `counts` images of each."""
        return frequencies(counts, self.group(cluster, len(counts)), self.of_members)

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
        if not whole or not all(fits(integer(0, _MOST_IMAGES), count) for count in row):
            raise reader.error("groups", f"must be {classes} numbers of images by cluster")
    names = ("of_groups", "of_members", "of_clients")
    priors = LabelPriors(groups, *(reader.get(name, number(1e-9, 1e9)) for name in names))
    reader.finish()
    return priors


def frequencies(counts: Floats, measures: Floats, s: float) -> Floats:
    """Mean of the posterior [..., classes]: counts under a prior of s images spread as `measures`."""
    return (counts + s * measures) / (counts.sum(axis=-1, keepdims=True) + s)


def even(classes: int) -> Floats:
    """All classes alike [classes]."""
    return np.full(classes, 1 / classes)

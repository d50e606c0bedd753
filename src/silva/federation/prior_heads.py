"""Heads for classes that are not equally frequent.

The first head is made for equal ones. Below the root a head starts from that of the tier above,

    logit_c + log(new_c / old_c)

with the frequencies that are expected of its own clients in place of those above: the posterior under
another prior (Saerens et al., Neural Computation 14, 2002). It costs no training.
"""

from __future__ import annotations

from typing import Any

import torch

from silva.adapters.label_priors import Floats, LabelPriors, even
from silva.adapters.tiers import Head
from silva.federation.labels import class_counts
from silva.federation.task import Reads


def under_prior(head: Head, old: Floats, new: Floats) -> Head:
    """`head`, made for classes as frequent as `old` [classes], for such as are as frequent as `new`."""
    return Head(weight=head.weight, bias=head.bias + torch.from_numpy(new / old).log().float())


def cluster_head(priors: LabelPriors | None, cluster: str, head: Head) -> Head:
    """What a cluster's head starts from, given the root's; the same where there are no priors."""
    if priors is None:
        return head
    return under_prior(head, even(head.classes), priors.group(cluster, head.classes))


def leaf_head(
    priors: LabelPriors | None, reads: Reads[Any] | None, data: Any, cluster: str | None, head: Head
) -> Head:
    """What the head of a client's leaf starts from, given that of its cluster, or of the root.

    data: what the client trains on.
    """
    if priors is None or reads is None:
        return head
    counts = class_counts(reads, data)
    return under_prior(head, priors.group(cluster, head.classes), priors.member(cluster, counts))


def lone_head(priors: LabelPriors | None, reads: Reads[Any] | None, data: Any, head: Head) -> Head:
    """What the head of a client starts from that knows no cluster, given one for equal classes."""
    if priors is None or reads is None:
        return head
    return under_prior(head, even(head.classes), priors.alone(class_counts(reads, data)))

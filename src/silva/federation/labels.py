"""Dirichlet priors over classes, estimated from the class counts of all training clients.

Concentrations are those under which the counts are most probable (empirical Bayes for the
Dirichlet-multinomial distribution; Minka, Estimating a Dirichlet distribution, 2000). Clients who have
few of the classes give small ones, and then a class without an image is improbable; clients who have
all of them give large ones, and then counts of few images mean little.

A cluster's frequencies m_k are not those of all its images thrown together: where members differ, ten
images of one member say less than one image each of ten. They are fitted together with s, how alike
members are, and g, how alike clusters are: members who differ as all clients do say nothing about their
cluster, and m_k becomes even.

A member's own counts then weigh against m_k as they would against equal frequencies. Weighed by s they
count next to nothing where members differ by chance alone, and chance is less than s reckons with where
the labels of a client's images come in proportion.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import digamma, gammaln

from silva.adapters.label_priors import Floats, LabelPriors, even, frequencies
from silva.adapters.names import cluster_name
from silva.federation.config import FederationConfig
from silva.federation.record import Round
from silva.federation.run import Progress, Run
from silva.federation.task import Data_contra, Reads

LEAST, MOST = 0.5, 1e4
"""Images of all classes together that a prior may stand for. A few clients of one class each would
make it next to none, and no class is out of the question because three clients have not seen it."""
_ROUNDS = 30
_TINY = 1e-12
_DIGITS = 9
NUMBER_BYTES = 4
"""Of a count, a frequency or a surprise as it travels."""


def has_priors(config: FederationConfig, reads: object) -> bool:
    """Whether heads take clients' labels into account.

    With the policy "global" a head is not the client's to change, with "local" it has learnt the
    client's labels already, and a language model's tiers have none.
    """
    return config.head == "tiered" and config.label_prior == "estimated" and reads is not None


def class_counts(reads: Reads[Data_contra], data: Data_contra) -> Floats:
    """Images of each class [classes] that a client trains on."""
    return torch.bincount(reads.labels(data), minlength=reads.classes).double().numpy()


def possible_counts(counts: Floats, images: int) -> bool:
    """Whether a client with `images` can have so many of each class; NaN it cannot."""
    return bool((counts >= 0).all() and counts.sum() == images)


def agree_on_labels(run: Run) -> LabelPriors | None:
    """What the training clients' counts say, once their clusters are known; on record as a round.

    Counts that are not of the client's number of images count for nothing. The server sends back the
    cluster's frequencies and a concentration. Counts went up with the
    statistics of the first head, except from those who came later, or where nobody was asked for any.
    """
    started, reads = time.perf_counter(), run.task.reads
    if reads is None or not has_priors(run.config, reads):
        return None
    names = [c.name for c in run.partition.seen]
    counts = np.zeros((len(names), reads.classes))
    rejected = 0
    for n, name in enumerate(names):
        said = class_counts(reads, run.clients.train(name))
        if possible_counts(said, run.images[name]):
            counts[n] = said
        else:
            rejected += 1
        run.on_progress(Progress("labels", n + 1, len(names), name))
    told = run.founders() if run.config.head_init == "discriminant" else []
    run.state.record.rounds.append(
        Round(
            stage="labels",
            cluster=-1,
            round=run.state.total_rounds,
            participants=len(names) - rejected,
            rejected=rejected,
            dropped=0,
            loss=0.0,
            rho=0.0,
            trunc_energy=0.0,
            bytes_up=NUMBER_BYTES * reads.classes * (len(names) - len(told)),
            bytes_down=NUMBER_BYTES * (reads.classes + 1) * len(names),
            seconds=time.perf_counter() - started,
            seconds_compute=0.0,
        )
    )
    labels, one = run.state.labels, len(set(run.state.labels.values())) == 1
    return estimate(counts, [] if one else [cluster_name(labels[name]) for name in names])


def estimate(counts: Floats, clusters: Sequence[str]) -> LabelPriors:
    """Priors from the counts [clients, classes] of all training clients and the cluster of each.

    clusters is empty where there are none.
    """
    of_clients = concentration(counts, np.tile(even(counts.shape[1]), (len(counts), 1)))
    if not clusters:
        return LabelPriors({}, of_clients)
    names, group = np.unique(clusters, return_inverse=True)
    rows = group_frequencies(counts, group).round(_DIGITS).clip(10.0**-_DIGITS).tolist()
    return LabelPriors({str(name): row for name, row in zip(names, rows, strict=True)}, of_clients)


def group_frequencies(counts: Floats, group: NDArray[np.int64]) -> Floats:
    """m [groups, classes] from counts [clients, classes] and the number of each client's group.

    Alternates between the three unknowns. An image of a class that the member has already counts less:
    t = s m (psi(n + s m) - psi(s m)) images in place of n (Minka, equation 54).
    """
    alike = even(counts.shape[1])
    pooled = _by_group(counts, group)
    m = frequencies(pooled, alike, 1.0)
    for _ in range(_ROUNDS):
        s = concentration(counts, m[group])
        sm = np.maximum(s * m[group], _TINY)
        said = _by_group(sm * (digamma(counts + sm) - digamma(sm)), group)
        g = concentration(said, np.tile(alike, (len(m), 1)))
        m = frequencies(said, alike, g)
    return m


def _by_group(rows: Floats, group: NDArray[np.int64]) -> Floats:
    sums = np.zeros((int(group.max()) + 1, rows.shape[1]))
    np.add.at(sums, group, rows)
    return sums


def concentration(counts: Floats, measures: Floats) -> float:
    """The s under which counts [n, classes] are most probable, row i from Dirichlet(s measures[i]).

    measures [n, classes]: positive, each row sums up to 1. Rows without images say nothing.
    """
    totals = counts.sum(axis=1)

    def surprise(log_s: float) -> float:
        s = np.exp(log_s)
        ends = gammaln(s) - gammaln(s + totals)
        each = (gammaln(counts + s * measures) - gammaln(s * measures)).sum(axis=1)
        return -float((ends + each).sum())

    found = minimize_scalar(surprise, bounds=(np.log(LEAST), np.log(MOST)), method="bounded")
    return float(np.exp(found.x))

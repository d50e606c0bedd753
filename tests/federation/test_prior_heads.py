"""Heads for classes that are not equally frequent, and where along a path they are put in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CLASSES, make_run, same_head, settings

from silva.adapters.label_priors import LabelPriors, even
from silva.adapters.tiers import Head
from silva.federation.cascade import grow_root, make_clusters
from silva.federation.client import Work
from silva.federation.labels import class_counts, estimate
from silva.federation.leaves import grow_leaf
from silva.federation.newcomer import meet
from silva.federation.prior_heads import cluster_head, leaf_head, lone_head, under_prior
from silva.federation.run import Run

PRIORS = LabelPriors({"cluster-0": [0.7, 0.1, 0.1, 0.1], "cluster-1": [0.1, 0.1, 0.4, 0.4]}, 2.0)


def random_head(seed: int = 1) -> Head:
    g = torch.Generator().manual_seed(seed)
    return Head(torch.randn(4, 6, generator=g), torch.randn(4, generator=g))


def posterior(head: Head, x: torch.Tensor) -> torch.Tensor:
    return (x @ head.weight.double().T + head.bias.double()).softmax(dim=1)


def test_a_prior_gives_the_posterior_under_it() -> None:
    """Bayes: p(c | x) under another prior is proportional to p(c | x) under the old one, new / old."""
    head, x = random_head(), torch.randn(9, 6, dtype=torch.float64)
    old, new = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.7, 0.1, 0.1, 0.1])
    wanted = posterior(head, x) * torch.from_numpy(new / old)
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    found = posterior(under_prior(head, old, new), x)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_leaf_under_its_cluster_is_under_its_own_prior_alone(tmp_path: Path) -> None:
    """What the cluster put in is taken out again, whatever the cluster is."""
    run, x = make_run(tmp_path), torch.randn(9, 6, dtype=torch.float64)
    data, reads = run.clients.train("c-0"), run.task.reads
    assert reads is not None
    own = class_counts(reads, data)
    for cluster in PRIORS.groups:
        above = cluster_head(PRIORS, cluster, random_head())
        found = leaf_head(PRIORS, reads, data, cluster, above)
        wanted = under_prior(random_head(), even(4), PRIORS.member(cluster, own))
        torch.testing.assert_close(posterior(found, x), posterior(wanted, x))
    found = lone_head(PRIORS, reads, data, random_head())
    wanted = under_prior(random_head(), even(4), PRIORS.alone(own))
    assert same_head(found, wanted)


def test_without_priors_heads_stay_as_they_are(tmp_path: Path) -> None:
    run, head = make_run(tmp_path), random_head()
    data, reads = run.clients.train("c-0"), run.task.reads
    assert cluster_head(None, "cluster-0", head) is head
    assert leaf_head(None, reads, data, "cluster-0", head) is head
    assert lone_head(None, reads, data, head) is head
    assert leaf_head(PRIORS, None, data, None, head) is head
    assert lone_head(PRIORS, None, data, head) is head


def clustered(folder: Path, **flags: object) -> Run:
    run = make_run(folder, settings(root__rounds=2, **flags))
    grow_root(run)
    make_clusters(run)
    return run


@pytest.mark.parametrize("k", [1, 2])
def test_clusters_and_leaves_of_a_run_start_from_their_labels(tmp_path: Path, k: int) -> None:
    run = clustered(tmp_path, clustering__rule="fixed", clustering__k=k)
    priors, root, reads = run.state.record.labels, run.state.root, run.task.reads
    assert priors is not None and root is not None and reads is not None
    assert len(run.state.clusters) == len(priors.groups) == (0 if k == 1 else k)
    names = [c.name for c in run.partition.seen]
    counts = {n: class_counts(reads, run.clients.train(n)) for n in names}
    clusters = [f"cluster-{run.state.labels[n]}" for n in names] if k > 1 else []
    assert priors == estimate(np.array(list(counts.values())), clusters)
    for j, cluster in enumerate(run.state.clusters):
        assert same_head(cluster.head, cluster_head(priors, f"cluster-{j}", root.head))
    group = f"cluster-{run.state.labels['c-1']}" if k > 1 else None
    above = run.above_leaf(run.state.labels["c-1"]).head
    old, new = priors.group(group, len(CLASSES)), priors.member(group, counts["c-1"])
    first = works_of(run, lambda: grow_leaf(run, "c-1", 1))[0]
    assert same_head(first.head, under_prior(above, old, new)) and not same_head(first.head, above)


def works_of(run: Run, act: Callable[[], object]) -> list[Work]:
    """What clients are asked to do meanwhile."""
    works: list[Work] = []
    real = run.runtime.train
    run.runtime.train = lambda given: (works.append(w) or u for w in given for u in real([w]))
    act()
    run.runtime.train = real
    return works


def test_a_newcomers_leaf_starts_from_the_labels_of_its_cluster(tmp_path: Path) -> None:
    run = clustered(tmp_path, clustering__rule="fixed", clustering__k=2)
    name, met = run.partition.held_out[0].name, []
    works = works_of(run, lambda: met.append(meet(run, name)))
    priors, reads = run.state.record.labels, run.task.reads
    assert priors is not None and reads is not None
    j = met[0].cluster
    counts = class_counts(reads, run.clients.train(name))
    old = priors.group(f"cluster-{j}", len(CLASSES))
    wanted = under_prior(run.above_leaf(j).head, old, priors.member(f"cluster-{j}", counts))
    first = next(w for w in works if w.epochs == 1)
    assert same_head(first.head, wanted)


@pytest.mark.parametrize(
    "flags", [{"head": "global"}, {"head": "local"}, {"label_prior": "even"}], ids=str
)
def test_other_policies_know_nothing_of_labels(tmp_path: Path, flags: dict[str, object]) -> None:
    run = clustered(tmp_path, clustering__rule="fixed", clustering__k=2, **flags)
    assert run.state.record.labels is None and run.state.root is not None
    assert all(same_head(c.head, run.state.root.head) for c in run.state.clusters)
    assert not [r for r in run.state.record.rounds if r.stage == "labels"]

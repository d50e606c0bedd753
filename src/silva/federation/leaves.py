"""The leaf tier: a pair and a head of one client's own, trained on what root and cluster left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from silva.adapters.names import cluster_name
from silva.adapters.subspace import mean_overlap
from silva.adapters.tiers import Head, LoraPair
from silva.federation.client import Update
from silva.federation.orthogonality import Frozen
from silva.federation.prior_heads import leaf_head
from silva.federation.record import Measurement, Overlap, Round
from silva.federation.rounds import believed, rate
from silva.federation.run import Run
from silva.federation.state import pack_head, pack_pairs


@dataclass(frozen=True)
class Leaf:
    """One client's trained leaf and how good it is."""

    client: str
    cluster: int
    trained: Update
    measurements: list[Measurement]


def grow_leaf(run: Run, name: str, rounds: int) -> Leaf:
    """Train one client's leaf for `rounds` local passes and measure it; changes no state."""
    cluster = run.state.labels.get(name, 0)
    merged, above = run.path_weights(cluster), run.above_leaf(cluster)
    pairs = run.fresh_pairs("leaf", name)
    trained = train_alone(
        run,
        name,
        "leaf",
        merged,
        pairs,
        start_of_leaf(run, name, cluster, run.own(name, above.head)),
        rounds,
        frozen_of(run, cluster),
        share=run.config.leaf.rate,
        train_head=run.config.head != "global",
    )
    weights = run.merge(merged, trained.pairs)
    return Leaf(name, cluster, trained, run.measured(name, "leaf", weights, trained.head))


def keep_leaf(run: Run, leaf: Leaf) -> None:
    """Put a trained leaf on disk and what it cost on record."""
    state, name, trained = run.state, leaf.client, leaf.trained
    run.folder.put(state, "leaf", name, {**pack_pairs(trained.pairs), **pack_head(trained.head)})
    state.record.measurements += leaf.measurements
    _record_overlaps(run, leaf)
    state.record.rounds.append(
        Round(
            stage="leaf",
            cluster=leaf.cluster,
            round=state.total_rounds,
            participants=1,
            rejected=trained.rejected,
            dropped=0,
            loss=trained.loss,
            rho=0.0,
            trunc_energy=0.0,
            bytes_up=0,
            bytes_down=0,
            seconds=trained.seconds,
            seconds_compute=trained.seconds_compute,
        )
    )


def start_of_leaf(run: Run, name: str, cluster: int, head: Head) -> Head:
    """The head that a leaf in a cluster starts from, given the one above."""
    group = cluster_name(cluster) if run.state.clusters else None
    train = run.clients.train(name)
    return leaf_head(run.state.record.labels, run.task.reads, train, group, head)


def frozen_of(run: Run, cluster: int) -> tuple[Frozen, ...]:
    """The tiers above a leaf of one cluster, with the weights of their penalties (section 1.2)."""
    root, config = run.state.root, run.config.orthogonality
    assert root is not None
    frozen = [Frozen({n: p.B for n, p in root.pairs.items()}, config.gamma_cluster)]
    if run.state.clusters:
        pairs = run.state.clusters[cluster].pairs
        frozen.append(Frozen({n: p.B for n, p in pairs.items()}, config.gamma_leaf))
    return tuple(frozen)


def train_alone(
    run: Run,
    name: str,
    stage: str,
    merged: Mapping[str, Tensor],
    pairs: Mapping[str, LoraPair],
    head: Head,
    rounds: int,
    frozen: tuple[Frozen, ...] = (),
    *,
    share: float = 1.0,
    epochs: int = 0,
    train_pairs: bool = True,
    train_head: bool = True,
    after: Callable[[int, Update], None] = lambda done, update: None,
) -> Update:
    """`rounds` local passes of one client with nothing sent; `after` sees the state after each.

    `share`: learning rates relative to those of the run. `epochs` of a pass; 0: those of the run.

    The same loop serves leaves, unseen clients and the controls, so that they differ in where they
    start and what they train, and in nothing else. A pass whose outcome is not believable is undone
    and counted; so is a reply that is not the first one of this client.
    """
    current = Update(name, pairs, head, 0, 0.0, 0.0, 0.0)
    seconds, compute, rejected = 0.0, 0.0, 0
    for number in range(rounds):
        work = run.work(
            name,
            stage,
            number,
            merged=merged,
            pairs=current.pairs,
            head=current.head,
            frozen=frozen,
            rate=rate(run.config.local.schedule, number, rounds) * share,
            train_pairs=train_pairs,
            train_head=train_head,
        )
        work = replace(work, epochs=epochs) if epochs else work
        arrived = list(run.runtime.train([work]))
        good = believed(run, arrived, [work])
        for update in arrived:
            seconds, compute = seconds + update.seconds, compute + update.seconds_compute
        rejected += len(arrived) - len(good)
        current = good[0] if good else current
        after(number + 1, current)
    return replace(current, seconds=seconds, seconds_compute=compute, rejected=rejected)


def _record_overlaps(run: Run, leaf: Leaf) -> None:
    """How much of each tier's directions lies in the others', averaged over modules."""
    root = run.state.root
    assert root is not None
    factors = {"root": {n: p.B for n, p in root.pairs.items()}}
    if run.state.clusters:
        pairs = run.state.clusters[leaf.cluster].pairs
        factors["cluster"] = {n: p.B for n, p in pairs.items()}
    factors["leaf"] = {n: p.B for n, p in leaf.trained.pairs.items()}
    names = list(factors)
    for n, upper in enumerate(names):
        for lower in names[n + 1 :]:
            value = mean_overlap(factors[upper], factors[lower])
            run.state.record.overlaps.append(Overlap(leaf.client, f"{upper}-{lower}", value))

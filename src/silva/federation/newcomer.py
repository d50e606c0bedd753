"""Clients never seen in training: probe, route, and a short leaf (docs/tuning.md, section 1.6)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from silva.adapters.routing import nearest, signature, similarities
from silva.adapters.tiers import Head, LoraPair
from silva.federation.client import Update, Work
from silva.federation.leaves import frozen_of, start_of_leaf, train_alone
from silva.federation.record import Measurement, Round, Routed
from silva.federation.rounds import believed, cost
from silva.federation.run import Run
from silva.federation.seeds import derive
from silva.federation.state import pack_head, pack_pairs


def probe_work(
    client: str,
    merged: Mapping[str, Tensor],
    draw: Mapping[str, Tensor],
    head: Head,
    *,
    scaling: float,
    steps: int,
    seed: int,
) -> Work:
    """A light residual probe: root frozen, the pair that every cluster started from, few steps.

    merged holds base and root, draw the seeded A [rank, in] by module. Starting at the root's own B
    would mostly measure the root, since clusters are orthogonal to it.
    """
    pairs = {
        n: LoraPair(B=merged[n].new_zeros(len(merged[n]), len(A)), A=A) for n, A in draw.items()
    }
    return Work(
        client=client,
        merged=merged,
        pairs=pairs,
        head=head,
        scaling=scaling,
        epochs=steps,
        max_steps=steps,
        seed=seed,
    )


def probe(run: Run, name: str) -> tuple[dict[str, Tensor], Round]:
    """B of a newcomer's probe, by module, and what it cost.

    No module where the probe was lost or is not believable.
    """
    root, started = run.state.root, time.perf_counter()
    assert root is not None
    work = probe_work(
        name,
        run.merge(run.base, root.pairs),
        {n: p.A for n, p in run.fresh_pairs("cluster").items()},
        root.head,
        scaling=run.scaling,
        steps=run.config.probe_steps,
        seed=derive(run.seed, "probe", name),
    )
    arrived = list(run.runtime.train([work]))
    found = believed(run, arrived, [work])
    spent = cost(run, [work], arrived, found, started, number=run.state.total_rounds)
    return {n: p.B for update in found for n, p in update.pairs.items()}, spent


def route(run: Run, name: str) -> tuple[Routed, Round]:
    """Nearest cluster by subspace, and by loss on the client's own training images as a check.

    Without a probe the loss decides. The second is what the probe cost.
    """
    factors, spent = probe(run, name)
    signatures = [signature({n: p.B for n, p in c.pairs.items()}) for c in run.state.clusters]
    scores = similarities(factors, signatures)
    data = run.clients.train(name)
    losses = [
        run.task.mean_loss(data, run.path_weights(j), run.own(name, c.head))
        for j, c in enumerate(run.state.clusters)
    ]
    by_loss = nearest([-x for x in losses])
    cluster = nearest(scores) if factors else by_loss
    return Routed(name, cluster, by_loss, scores, losses), replace(spent, cluster=cluster)


def _unrouted(run: Run) -> Round:
    """What a newcomer costs where there are no clusters: nothing is sent, and no time passes."""
    return replace(cost(run, [], [], [], 0.0, number=run.state.total_rounds), seconds=0.0)


@dataclass(frozen=True)
class Newcomer:
    """One held-out client: where it was sent, how good each tier is, and its short leaf.

    spent: what its probe cost; `rejected` there counts the passes of the short leaf too.
    """

    client: str
    cluster: int
    routed: Routed | None
    measurements: list[Measurement]
    trained: Update
    spent: Round


def meet(run: Run, name: str) -> Newcomer:
    """Route one held-out client and measure it at root, at zero leaf and after a short leaf.

    Changes no state.
    """
    state, last = run.state, run.config.unseen_epochs
    assert state.root is not None
    rows = run.measured(name, "root", run.merge(run.base, state.root.pairs), state.root.head)
    routed, spent = route(run, name) if state.clusters else (None, _unrouted(run))
    cluster = routed.cluster if routed else 0
    merged, above = run.path_weights(cluster), run.above_leaf(cluster)
    rows += run.measured(name, "zero_leaf", merged, above.head)

    def milestone(done: int, update: Update) -> None:
        if done in (1, last):
            weights = run.merge(merged, update.pairs)
            rows.extend(run.measured(name, f"after_{done}", weights, update.head))

    trained = train_alone(
        run,
        name,
        "unseen",
        merged,
        run.fresh_pairs("leaf", name),
        start_of_leaf(run, name, cluster, above.head),
        last,
        frozen_of(run, cluster),
        share=run.config.leaf.rate,
        epochs=1,
        train_head=run.config.head != "global",
        after=milestone,
    )
    spent = replace(spent, rejected=spent.rejected + trained.rejected)
    return Newcomer(name, cluster, routed, rows, trained, spent)


def keep_newcomer(run: Run, newcomer: Newcomer) -> None:
    """Put a newcomer's short leaf on disk, and where it was sent on record."""
    state, name, trained = run.state, newcomer.client, newcomer.trained
    state.labels[name] = newcomer.cluster
    if newcomer.routed is not None:
        state.record.routed.append(newcomer.routed)
    state.record.measurements += newcomer.measurements
    state.record.rounds.append(newcomer.spent)
    kept = {**pack_pairs(trained.pairs), **pack_head(trained.head)}
    run.folder.put(state, "newcomer", name, kept)

"""HiLoRA, top to bottom: root -> clustering -> cluster -> leaf -> unseen clients (section 3).

Each tier fits what the tiers above left and is frozen when the next one starts. Every stage goes on
from wherever `run.state` stands, so a fresh run and a resumed one are the same code.
"""

from __future__ import annotations

from functools import partial

from silva.adapters.names import cluster_name
from silva.federation.baselines import local_work, measure_controls
from silva.federation.grouping import find_clusters
from silva.federation.heads import agree_on_head
from silva.federation.labels import agree_on_labels
from silva.federation.leaves import grow_leaf, keep_leaf
from silva.federation.newcomer import keep_newcomer, meet
from silva.federation.orthogonality import Frozen
from silva.federation.prior_heads import cluster_head
from silva.federation.rounds import federated_round
from silva.federation.run import Progress, Run
from silva.federation.state import TierState


def grow(run: Run) -> None:
    """Run every stage that `run.state` has not finished; afterwards its stage is "done"."""
    stages = {
        "root": grow_root,
        "clustering": make_clusters,
        "cluster": grow_clusters,
        "leaf": grow_leaves,
        "unseen": meet_unseen,
    }
    while run.state.stage != "done":
        stage = run.state.stage
        with run.timed(stage):
            stages[stage](run)


def grow_root(run: Run) -> None:
    """All clients train one pair together: min sum_i pi_i L_i(W0 + B_r A_r)."""
    state, rounds = run.state, run.config.root.rounds
    names = run.founders()
    if state.root is None:
        state.root = TierState(run.fresh_pairs("root"), agree_on_head(run, names))
    while state.round < rounds and not state.root.stopped:
        state.root = federated_round(run, state.root, names, run.base, planned=rounds)
        _finish_round(run, rounds)
        if _measures(run, state.round, rounds, state.root.stopped):
            _measure_root(run)
        run.save()
    state.advance("clustering")
    run.save()


def make_clusters(run: Run) -> None:
    """Infer clusters from the clients' subspaces; K = 1 leaves the cluster tier out."""
    state = run.state
    state.labels, state.record.clustering = find_clusters(run)
    state.record.labels = priors = agree_on_labels(run)
    k = len(set(state.labels.values()))
    start = state.root
    assert start is not None
    if k > 1:
        pairs = run.fresh_pairs("cluster")
        heads = [cluster_head(priors, cluster_name(j), start.head) for j in range(k)]
        state.clusters = [TierState(pairs, head) for head in heads]
    state.advance("cluster")
    run.save()


def grow_clusters(run: Run) -> None:
    """Each cluster trains a pair on what the root left, orthogonal to the root's directions."""
    state, rounds = run.state, run.config.cluster.rounds
    assert state.root is not None
    merged = run.merge(run.base, state.root.pairs)
    root = {n: p.B for n, p in state.root.pairs.items()}
    frozen = (Frozen(root, run.config.orthogonality.gamma_cluster),)
    while state.round < rounds and not all(c.stopped for c in state.clusters):
        for j, cluster in enumerate(state.clusters):
            if not cluster.stopped:
                members = run.members(j)
                state.clusters[j] = federated_round(
                    run, cluster, members, merged, planned=rounds, cluster=j, frozen=frozen
                )
        _finish_round(run, rounds)
        if _measures(run, state.round, rounds, all(c.stopped for c in state.clusters)):
            _measure_clusters(run)
        run.save()
    state.advance("leaf")
    run.save()


def grow_leaves(run: Run) -> None:
    """Every client trains a pair and a head of its own; nothing is sent, nothing aggregated."""
    state, names = run.state, [c.name for c in run.partition.seen]
    rounds = run.leaf_rounds()
    if state.round == 0:
        state.total_rounds += rounds
    for wave in run.waves(names[state.round :]):
        for leaf in run.parallel(partial(grow_leaf, run, rounds=rounds), wave):
            keep_leaf(run, leaf)
            state.round += 1
            run.on_progress(Progress("leaf", state.round, len(names), leaf.client))
        run.save()
    state.advance("unseen")
    run.save()


def meet_unseen(run: Run) -> None:
    """Route the held-out clients and measure them, then measure the controls."""
    state = run.state
    newcomers = [c.name for c in run.partition.held_out]
    total = len(newcomers) + len(run.partition.seen)
    for wave in run.waves(newcomers[state.round :]):
        for newcomer in run.parallel(partial(meet, run), wave):
            keep_newcomer(run, newcomer)
            state.round += 1
            run.on_progress(Progress("unseen", state.round, total, newcomer.client))
        run.save()
    others = [c.name for c in run.partition.seen]
    work = local_work(run)
    for wave in run.waves(others[state.round - len(newcomers) :]):
        for rows in run.parallel(partial(measure_controls, run, work=work), wave):
            state.record.measurements += rows
            state.round += 1
            run.on_progress(Progress("unseen", state.round, total, "controls"))
        run.save()
    state.advance("done")
    run.save()


def _finish_round(run: Run, rounds: int) -> None:
    state = run.state
    state.round += 1
    state.total_rounds += 1
    last = state.record.rounds[-1]
    note = f"loss {last.loss:.3f}, change {last.rho:.3f}"
    run.on_progress(Progress(state.stage, state.round, rounds, note))


def _measures(run: Run, done: int, rounds: int, stopped: bool) -> bool:
    """Accuracy is taken every `measure_every` rounds and always at the end of a stage."""
    every = run.config.measure_every
    return done == rounds or stopped or (every > 0 and done % every == 0)


def _measure_root(run: Run) -> None:
    root = run.state.root
    assert root is not None
    merged = run.merge(run.base, root.pairs)
    run.measure([c.name for c in run.partition.seen], "root", merged, root.head)


def _measure_clusters(run: Run) -> None:
    root = run.state.root
    assert root is not None
    merged = run.merge(run.base, root.pairs)
    for j, cluster in enumerate(run.state.clusters):
        run.measure(run.members(j), "cluster", run.merge(merged, cluster.pairs), cluster.head)

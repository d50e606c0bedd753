from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import broken, make_run, partition, same_head, same_pairs, settings

from silva.federation.cascade import grow_clusters, grow_root, make_clusters
from silva.federation.client import Update, Work
from silva.federation.leaves import frozen_of, grow_leaf, keep_leaf, train_alone
from silva.federation.run import Run
from silva.federation.state import unpack_head, unpack_pairs


def clustered(folder: Path, **flags: object) -> Run:
    run = make_run(folder / "run", settings(**flags))
    grow_root(run)
    make_clusters(run)
    grow_clusters(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return clustered(tmp_path_factory.mktemp("leaves"))


def test_growing_a_leaf_changes_no_state(run: Run) -> None:
    before, files = repr(run.state.record), dict(run.state.files)
    one, other = grow_leaf(run, "c-1", 2), grow_leaf(run, "c-1", 2)
    assert repr(run.state.record) == before and run.state.files == files
    assert same_pairs(one.trained.pairs, other.trained.pairs)
    assert same_head(one.trained.head, other.trained.head)
    assert one.measurements == other.measurements and one.cluster == run.state.labels["c-1"]


def test_a_leaf_is_the_clients_own(run: Run) -> None:
    one, other = grow_leaf(run, "c-0", 2).trained, grow_leaf(run, "c-2", 2).trained
    above = run.above_leaf(run.state.labels["c-0"])
    assert not same_pairs(one.pairs, other.pairs) and not same_head(one.head, above.head)
    assert all(float(p.B.norm()) > 0 and p.rank == 2 for p in one.pairs.values())


def test_a_kept_leaf_is_on_disk_and_sent_nothing(tmp_path: Path) -> None:
    run = clustered(tmp_path)
    leaf = grow_leaf(run, "c-3", 2)
    keep_leaf(run, leaf)
    stored = run.folder.get(run.state, "leaf", "c-3")
    assert stored is not None
    assert same_pairs(unpack_pairs(stored), leaf.trained.pairs)
    assert same_head(unpack_head(stored), leaf.trained.head)
    row = run.state.record.rounds[-1]
    assert (row.stage, row.participants, row.cluster) == ("leaf", 1, leaf.cluster)
    assert row.bytes_up == row.bytes_down == row.dropped == row.rejected == 0
    pairs = {o.pair for o in run.state.record.overlaps if o.client == "c-3"}
    assert pairs == {"root-cluster", "root-leaf", "cluster-leaf"}
    assert all(0 <= o.overlap <= 1 for o in run.state.record.overlaps)
    assert run.state.record.measurements[-1].tier == "leaf"


def test_a_leaf_is_kept_apart_from_root_and_cluster(run: Run) -> None:
    root, cluster = frozen_of(run, 1)
    config = run.config.orthogonality
    assert (root.gamma, cluster.gamma) == (config.gamma_cluster, config.gamma_leaf)
    assert run.state.root is not None
    assert all(torch.equal(B, run.state.root.pairs[n].B) for n, B in root.factors.items())
    pairs = run.state.clusters[1].pairs
    assert all(torch.equal(B, pairs[n].B) for n, B in cluster.factors.items())


def alone(run: Run, rounds: int, **changes: object) -> Update:
    tier = run.above_leaf(0)
    start = run.fresh_pairs("leaf", "c-0")
    return train_alone(run, "c-0", "leaf", run.path_weights(0), start, tier.head, rounds, **changes)


def test_every_pass_goes_on_from_the_last(run: Run) -> None:
    seen: list[tuple[int, Update]] = []
    end = alone(run, 3, after=lambda done, update: seen.append((done, update)))
    assert [done for done, _ in seen] == [1, 2, 3]
    assert same_pairs(seen[-1][1].pairs, end.pairs)
    assert seen[-1][1].loss < seen[0][1].loss
    assert end.seconds >= end.seconds_compute > 0


@pytest.mark.parametrize(("pairs", "head"), [(True, False), (False, True)])
def test_what_is_not_trained_stays_as_it_is(run: Run, pairs: bool, head: bool) -> None:
    end = alone(run, 2, train_pairs=pairs, train_head=head)
    assert same_pairs(end.pairs, run.fresh_pairs("leaf", "c-0")) != pairs
    assert same_head(end.head, run.above_leaf(0).head) != head


def test_no_passes_leave_the_start(run: Run) -> None:
    end = alone(run, 0)
    assert same_pairs(end.pairs, run.fresh_pairs("leaf", "c-0")) and end.images == 0


def test_a_pass_that_ends_in_NaN_is_undone_and_counted(tmp_path: Path) -> None:
    passes: list[Work] = []

    def meddle(work: Work, update: Update) -> Update:
        passes.append(work)
        return broken(update) if len(passes) == 2 else update

    run = clustered(tmp_path)
    plain, run.runtime = run.runtime, Faulty(run.runtime, meddle)
    end = alone(run, 3)
    run.runtime = plain
    assert end.rejected == 1 and end.finite() and len(passes) == 3
    assert same_pairs(passes[1].pairs, passes[2].pairs)


def test_of_several_replies_to_a_pass_the_first_counts(run: Run) -> None:
    """As in a round: what comes after it, or from somebody else, is refused and counted."""
    wanted, plain = alone(run, 2), run.runtime

    def meddle(update: Update) -> list[Update]:
        other = replace(update, head=replace(update.head, bias=update.head.bias + 0.01))
        return [replace(other, client="c-1"), update, other]

    run.runtime = Talkative(plain, meddle)
    end = alone(run, 2)
    run.runtime = plain
    assert same_pairs(end.pairs, wanted.pairs) and same_head(end.head, wanted.head)
    assert (end.rejected, wanted.rejected) == (4, 0)


class Talkative:
    """A runtime that makes several replies of one."""

    def __init__(self, inner, replies) -> None:
        self.inner, self.replies = inner, replies

    def train(self, works):
        return (reply for u in self.inner.train(works) for reply in self.replies(u))


class Faulty:
    """A runtime whose updates pass through a function."""

    def __init__(self, inner, meddle) -> None:
        self.inner, self.meddle = inner, meddle

    def train(self, works):
        return (self.meddle(w, u) for w in works for u in self.inner.train([w]))


def test_a_client_that_only_sends_NaN_keeps_an_empty_leaf(tmp_path: Path) -> None:
    run = clustered(tmp_path)
    run.runtime = Faulty(run.runtime, lambda work, update: broken(update))
    leaf = grow_leaf(run, "c-0", 2)
    keep_leaf(run, leaf)
    assert run.state.record.rounds[-1].rejected == 2
    assert all(not p.B.any() for p in leaf.trained.pairs.values())
    assert leaf.measurements[0].correct >= 0


def test_one_image_and_no_test_image_are_enough_for_a_leaf(tmp_path: Path) -> None:
    plain = partition()
    few = replace(
        plain.clients[0], train=plain.clients[0].train[:1], test=plain.clients[0].test[:0]
    )
    parts = replace(plain, clients=(few, *plain.clients[1:]))
    run = make_run(tmp_path / "run", parts=parts)
    grow_root(run)
    leaf = grow_leaf(run, "c-0", 2)
    assert leaf.trained.images == 1 and leaf.trained.finite() and leaf.measurements == []

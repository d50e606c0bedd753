from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_run, partition, random_head, random_pairs, same_pairs, settings

from silva.federation.run import Run
from silva.federation.state import TierState, pack_head


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "run")
    run.state.root = TierState(random_pairs(1), random_head(1))
    run.state.clusters = [TierState(random_pairs(n), random_head(n)) for n in (2, 3)]
    run.state.labels = {f"c-{n}": n % 2 for n in range(6)}
    return run


def test_fresh_pairs_change_nothing_yet_and_depend_on_their_labels(run: Run) -> None:
    pairs = run.fresh_pairs("leaf", "c-0")
    assert set(pairs) == set(run.base)
    assert all(not p.product().any() and p.A.any() and p.rank == 2 for p in pairs.values())
    assert same_pairs(pairs, run.fresh_pairs("leaf", "c-0"))
    assert not same_pairs(pairs, run.fresh_pairs("leaf", "c-1"))
    assert not same_pairs(pairs, replace(run, seed=1).fresh_pairs("leaf", "c-0"))
    assert all(float(p.A.abs().max()) <= p.A.shape[1] ** -0.5 for p in pairs.values())


def test_merging_adds_the_scaled_products_and_keeps_the_base(run: Run) -> None:
    before = {n: w.clone() for n, w in run.base.items()}
    assert run.state.root is not None and run.scaling == 2.0
    merged = run.path_weights(1)
    for name, weight in before.items():
        root, cluster = run.state.root.pairs[name], run.state.clusters[1].pairs[name]
        wanted = weight + 2 * root.B @ root.A + 2 * cluster.B @ cluster.A
        torch.testing.assert_close(merged[name], wanted)
        assert torch.equal(run.base[name], weight)


def test_without_clusters_a_path_ends_at_the_root(run: Run) -> None:
    assert run.above_leaf(1) is run.state.clusters[1]
    with_clusters = run.leaf_rounds()
    run.state.clusters = []
    assert run.state.root is not None and run.above_leaf(0) is run.state.root
    merged = run.merge(run.base, run.state.root.pairs)
    assert all(torch.equal(w, merged[n]) for n, w in run.path_weights(0).items())
    assert run.leaf_rounds() == with_clusters + run.config.cluster.rounds


def test_members_are_training_clients_of_a_cluster(run: Run) -> None:
    run.state.labels["c-6"] = 0
    assert run.members(0) == ["c-0", "c-2", "c-4"] and run.members(1) == ["c-1", "c-3", "c-5"]


@pytest.mark.parametrize(("late", "count"), [(0.0, 6), (0.5, 3), (0.9, 1)])
def test_late_clients_are_drawn_once_and_are_no_founders(
    tmp_path: Path, late: float, count: int
) -> None:
    run = make_run(tmp_path / "run", settings(late=late))
    founders = run.founders()
    assert len(founders) == count and founders == sorted(founders) == run.founders()
    assert set(founders) <= {c.name for c in run.partition.seen}
    assert replace(run, seed=3).founders() == founders or late


def test_the_order_of_images_depends_on_run_stage_round_and_client(run: Run) -> None:
    task = {"merged": run.base, "pairs": random_pairs(1), "head": random_head(1)}
    seeds = {
        run.work("c-0", "root", 1, **task).seed,
        run.work("c-1", "root", 1, **task).seed,
        run.work("c-0", "leaf", 1, **task).seed,
        run.work("c-0", "root", 2, **task).seed,
        replace(run, seed=1).work("c-0", "root", 1, **task).seed,
    }
    assert len(seeds) == 5 and run.work("c-0", "root", 1, **task).seed in seeds


def test_lanes_change_neither_the_order_nor_the_result(run: Run) -> None:
    names = [f"c-{n}" for n in range(5)]
    assert [list(w) for w in run.waves(names)] == [[n] for n in names]
    alone = run.parallel(str.upper, names)
    with ThreadPoolExecutor(3) as pool:
        wide = replace(run, pool=pool, lanes=3)
        assert [list(w) for w in wide.waves(names)] == [names[:3], names[3:]]
        assert wide.parallel(str.upper, names) == alone == [n.upper() for n in names]


def test_accuracy_counts_a_clients_test_images(run: Run) -> None:
    (row,) = run.measured("c-7", "root", run.base, random_head(1))
    assert (row.client, row.seen, row.tier, row.stage, row.total) == (
        *("c-7", False, "root", "root"),
        6,
    )
    assert 0 <= row.correct <= 6 and 0 <= row.balanced <= 1


def test_a_client_without_test_images_is_not_measured(tmp_path: Path) -> None:
    plain = partition()
    bare = replace(plain.clients[0], test=plain.clients[0].test[:0])
    run = make_run(tmp_path / "run", parts=replace(plain, clients=(bare, *plain.clients[1:])))
    run.measure(["c-0", "c-1"], "root", run.base, random_head(1))
    assert [a.client for a in run.state.record.measurements] == ["c-1"]


def test_a_client_answers_with_its_own_head_only_under_the_policy_local(run: Run) -> None:
    shared = random_head(1)
    run.folder.put(run.state, "head", "c-0", pack_head(random_head(9)))
    assert run.own("c-0", shared) is shared
    local = replace(run, config=settings(head="local"))
    assert torch.equal(local.own("c-0", shared).weight, random_head(9).weight)
    assert local.own("c-1", shared) is shared


def test_seconds_are_part_of_every_checkpoint(run: Run) -> None:
    with run.timed("root"):
        run.save()
        kept = run.folder.load().record.seconds["root"]
    assert 0 < kept <= run.state.record.seconds["root"]
    again = run.folder.load()
    resumed = replace(run, state=again)
    with resumed.timed("root"):
        pass
    assert resumed.state.record.seconds["root"] > kept

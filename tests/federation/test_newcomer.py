from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import broken, make_run, same_head, settings

from silva.federation.cascade import grow_clusters, grow_leaves, grow_root, make_clusters
from silva.federation.client import payload_bytes
from silva.federation.newcomer import keep_newcomer, meet, probe, route
from silva.federation.run import Run
from silva.federation.tables import make_tables

SEPARATING = {
    "head_init": "zeros",
    "local__epochs": 3,
    "root__rounds": 4,
    "cluster__rounds": 4,
    "clustering__feature": "dB_ema",
    "probe_steps": 10,
}


def trained(folder: Path, **flags: object) -> Run:
    run = make_run(folder / "run", settings(**flags))
    for stage in (grow_root, make_clusters, grow_clusters, grow_leaves):
        stage(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("newcomer"), **SEPARATING)


def test_every_training_client_is_routed_to_its_own_cluster(run: Run) -> None:
    names = [c.name for c in run.partition.seen]
    routed = {name: route(run, name)[0] for name in names}
    assert {n: r.cluster for n, r in routed.items()} == run.state.labels
    assert {n: r.by_loss for n, r in routed.items()} == run.state.labels


def test_held_out_clients_are_routed_to_the_cluster_of_their_group(run: Run) -> None:
    for client in run.partition.held_out:
        found, spent = route(run, client.name)
        assert (spent.cluster, spent.participants) == (found.cluster, 1)
        own = run.state.labels[f"c-{client.group}"]
        assert found.cluster == own == found.by_loss
        assert len(found.similarities) == len(found.losses) == 2
        assert all(0 <= s <= 1 for s in found.similarities)


def test_a_newcomers_leaf_counts_epochs_however_many_a_round_has(run: Run) -> None:
    works = []
    real = run.runtime.train
    run.runtime.train = lambda given: (works.append(w) or u for w in given for u in real([w]))
    meet(run, "c-6")
    del run.runtime.train
    assert run.config.local.epochs == 3
    assert [w.epochs for w in works if not w.max_steps] == [1] * run.config.unseen_epochs


def test_a_probe_takes_few_steps_from_where_the_clusters_started(run: Run) -> None:
    works = []
    real = run.runtime.train
    run.runtime.train = lambda given: (works.append(w) or u for w in given for u in real([w]))
    factors, spent = probe(run, "c-6")
    del run.runtime.train
    (work,) = works
    start = run.fresh_pairs("cluster")
    assert work.max_steps == 10 and not work.frozen
    assert all(torch.equal(p.A, start[n].A) and not p.B.any() for n, p in work.pairs.items())
    assert set(factors) == set(start) and all(B.any() for B in factors.values())
    assert (spent.cluster, spent.participants) == (-1, 1)
    assert spent.seconds >= spent.seconds_compute > 0


def test_meeting_a_client_changes_no_state(run: Run) -> None:
    before, labels = repr(run.state.record), dict(run.state.labels)
    one, other = meet(run, "c-7"), meet(run, "c-7")
    assert repr(run.state.record) == before and run.state.labels == labels
    assert one.cluster == other.cluster and one.measurements == other.measurements


def test_a_newcomer_is_measured_at_every_step_and_sees_no_test_image(run: Run) -> None:
    found = meet(run, "c-6")
    assert [a.tier for a in found.measurements] == ["root", "zero_leaf", "after_1", "after_2"]
    assert all(not a.seen and a.total == 6 for a in found.measurements)
    assert found.trained.images == 12


def test_what_is_kept_of_a_newcomer(tmp_path: Path) -> None:
    run = trained(tmp_path)
    newcomer = meet(run, "c-7")
    keep_newcomer(run, newcomer)
    assert run.state.labels["c-7"] == newcomer.cluster
    assert run.state.record.routed == [newcomer.routed]
    assert run.state.record.measurements[-1] == newcomer.measurements[-1]
    assert run.folder.get(run.state, "newcomer", "c-7") is not None
    assert run.folder.get(run.state, "leaf", "c-7") is None
    row = run.state.record.rounds[-1]
    assert (row.stage, row.cluster, row.round) == ("unseen", newcomer.cluster, 6)
    assert (row.participants, row.rejected, row.dropped) == (1, 0, 0)
    head = run.state.root.head
    assert row.bytes_up == row.bytes_down == payload_bytes(run.fresh_pairs("cluster"), head)


@pytest.mark.parametrize("reply", [broken, None])
def test_without_a_probe_the_loss_decides(tmp_path: Path, reply) -> None:
    run = trained(tmp_path)
    real = run.runtime.train
    run.runtime.train = lambda works: (reply(u) for u in real(works) if reply)
    found, _ = route(run, "c-6")
    assert probe(run, "c-6")[0] == {} and found.cluster == found.by_loss
    assert found.losses[found.by_loss] == min(found.losses)
    met = meet(run, "c-6")
    assert met.cluster == found.by_loss and met.trained.finite()
    assert not any(p.B.any() for p in met.trained.pairs.values())
    row, passes = met.spent, run.config.unseen_epochs
    assert (row.participants, row.rejected, row.dropped) == (
        (0, 1 + passes, 0) if reply else (0, 0, 1)
    )


def test_with_one_cluster_nobody_is_routed(tmp_path: Path) -> None:
    run = trained(tmp_path, clustering__k=1)
    newcomer = meet(run, "c-7")
    keep_newcomer(run, newcomer)
    assert newcomer.routed is None and run.state.record.routed == []
    assert run.state.labels["c-7"] == 0
    row = run.state.record.rounds[-1]
    assert (row.stage, row.cluster, row.bytes_up, row.bytes_down) == ("unseen", -1, 0, 0)
    stages = make_tables(run.state.record)["stages"].as_dict()["rows"]
    assert {r["stage"]: r["overhead"] is None for r in stages}["unseen"]


def test_under_a_global_head_a_newcomer_keeps_it(tmp_path: Path) -> None:
    run = trained(tmp_path, head="global")
    assert run.state.root is not None
    assert same_head(meet(run, "c-6").trained.head, run.state.root.head)

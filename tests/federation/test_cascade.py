from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import broken, huge, make_run, partition, same_head, same_pairs, settings

from silva.federation import cascade
from silva.federation.cascade import grow
from silva.federation.client import Update, Work
from silva.federation.run import Progress, Run
from silva.federation.state import TierState, unpack_head, unpack_pairs

STAGES = ("root", "clustering", "cluster", "leaf", "unseen")
ALL = settings(participation=0.7, dropout=0.2, late=0.2, measure_every=1, controls=("head_only",))


def tier_bytes(tier: TierState) -> bytes:
    parts = [t for n in sorted(tier.pairs) for t in (tier.pairs[n].A, tier.pairs[n].B)]
    return b"".join(t.numpy().tobytes() for t in (*parts, tier.head.weight, tier.head.bias))


def everything(run: Run) -> dict[str, object]:
    """All that a run has made, without the times it took."""
    state, record = run.state, run.state.record
    tiers = [t for t in (state.root, *state.clusters) if t is not None]
    rows = [replace(r, seconds=0.0, seconds_compute=0.0) for r in record.rounds]
    return {
        "tiers": [tier_bytes(t) for t in tiers],
        "files": {
            f"{kind}/{client}": [t.numpy().tobytes() for _, t in sorted(found.items())]
            for kind, clients in state.files.items()
            for client in clients
            if (found := run.folder.get(state, kind, client)) is not None
        },
        "labels": state.labels,
        "measurements": record.measurements,
        "rounds": repr(rows),
        "overlaps": record.overlaps,
        "routed": record.routed,
        "clustering": record.clustering,
        "total": state.total_rounds,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run in which clients are sampled, lost and late."""
    run = make_run(tmp_path_factory.mktemp("cascade") / "run", ALL)
    grow(run)
    return run


def stage_by_stage(run: Run) -> Iterator[str]:
    steps = (
        cascade.grow_root,
        cascade.make_clusters,
        cascade.grow_clusters,
        cascade.grow_leaves,
        cascade.meet_unseen,
    )
    for stage, step in zip(STAGES, steps, strict=True):
        step(run)
        yield stage


def test_no_byte_of_a_frozen_tier_changes_in_a_later_stage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ALL)
    base = {n: t.clone() for n, t in run.task.model.state_dict().items()}
    roots, clusters, leaves = set(), set(), set()
    for stage in stage_by_stage(run):
        assert run.state.root is not None
        roots.add(tier_bytes(run.state.root))
        if stage not in ("root", "clustering"):
            clusters.add(tuple(map(tier_bytes, run.state.clusters)))
        if stage in ("leaf", "unseen"):
            leaves.add(
                repr(sorted((k, v) for k, v in everything(run)["files"].items() if "leaf" in k))
            )
    assert len(roots) == len(clusters) == len(leaves) == 1
    assert all(torch.equal(base[n], t) for n, t in run.task.model.state_dict().items())


def test_every_tier_is_trained_and_every_client_has_a_leaf(whole: Run) -> None:
    state = whole.state
    assert state.stage == "done" and len(state.clusters) == 2 and state.root is not None
    for tier in (state.root, *state.clusters):
        assert all(p.B.any() and p.rank == 2 for p in tier.pairs.values())
    assert set(state.files["leaf"]) == {c.name for c in whole.partition.seen}
    assert set(state.files["newcomer"]) == set(whole.partition.unseen)
    assert set(state.labels) == {c.name for c in whole.partition.clients}
    assert state.total_rounds == 6


SENDING = ("head", "root", "clustering", "labels", "cluster", "unseen")


def test_the_leaf_stage_sends_nothing_and_the_tiers_above_send_their_pairs(whole: Run) -> None:
    rows = whole.state.record.rounds
    assert {r.stage for r in rows} == {*SENDING, "leaf"}
    for row in rows:
        sent = (row.bytes_up, row.bytes_down)
        assert sent == (0, 0) if row.stage == "leaf" else row.bytes_down > 0
        if row.stage in ("leaf", "labels"):  # most clients told their labels with the first head
            continue
        assert (row.bytes_up > 0) == (row.participants + row.rejected > 0)


def test_partial_participation_and_lost_replies_are_on_record(whole: Run) -> None:
    shared = [r for r in whole.state.record.rounds if r.stage == "root"]
    asked = round(0.7 * len(whole.founders()))
    assert all(r.participants + r.dropped == asked for r in shared)
    assert sum(r.dropped for r in whole.state.record.rounds) > 0


def test_late_clients_join_after_the_root(tmp_path: Path) -> None:
    asked: dict[str, set[str]] = {}

    def meddle(work: Work, update: Update) -> Update:
        asked.setdefault(run.state.stage, set()).add(work.client)
        return update

    run = make_run(tmp_path / "run", settings(late=0.5), meddle=meddle)
    grow(run)
    seen = {c.name for c in run.partition.seen}
    assert asked["root"] == set(run.founders()) < seen
    assert asked["clustering"] == seen - asked["root"]
    assert asked["cluster"] == asked["leaf"] == seen


def test_held_out_clients_take_no_part_in_training(tmp_path: Path) -> None:
    asked: dict[str, set[str]] = {}

    def meddle(work: Work, update: Update) -> Update:
        asked.setdefault(run.state.stage, set()).add(work.client)
        return update

    run = make_run(tmp_path / "run", meddle=meddle)
    grow(run)
    assert asked.pop("unseen") == set(run.partition.unseen) == {"c-6", "c-7"}
    assert all(not clients & run.partition.unseen for clients in asked.values())


def test_one_cluster_leaves_the_cluster_tier_out_and_gives_its_rounds_to_the_leaves(
    tmp_path: Path,
) -> None:
    passes: list[str] = []

    def meddle(work: Work, update: Update) -> Update:
        if run.state.stage == "leaf":
            passes.append(work.client)
        return update

    config = settings(clustering__k=1, cluster__rounds=3, leaf__rounds=2)
    run = make_run(tmp_path / "run", config, meddle=meddle)
    grow(run)
    record = run.state.record
    assert run.state.clusters == [] and record.clustering is not None
    assert record.clustering.k == 1 and set(run.state.labels.values()) == {0}
    assert {r.stage for r in record.rounds} == {"head", "root", "labels", "leaf", "unseen"}
    assert record.routed == []
    assert all(passes.count(c.name) == 5 for c in run.partition.seen)
    assert run.state.total_rounds == 2 + 5
    assert {o.pair for o in record.overlaps} == {"root-leaf"}


@pytest.mark.parametrize("stage", ["root", "cluster", "leaf", "unseen"])
def test_an_interrupted_run_ends_as_the_undisturbed_one(
    tmp_path: Path, whole: Run, stage: str
) -> None:
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.done) == (stage, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grow(make_run(tmp_path / "run", ALL, on_progress=stop))
    resumed = make_run(tmp_path / "run", ALL, resumed=True)
    assert resumed.state.stage == stage
    grow(resumed)
    assert everything(resumed) == everything(whole)


def test_clients_side_by_side_give_the_same_run(tmp_path: Path, whole: Run) -> None:
    with ThreadPoolExecutor(2) as pool:
        run = make_run(tmp_path / "run", ALL)
        run.pool, run.lanes = pool, 2
        grow(run)
    assert everything(run) == everything(whole)


def test_accuracy_is_taken_as_often_as_asked_and_at_the_end_of_a_stage(tmp_path: Path) -> None:
    config = settings(root__rounds=5, measure_every=2, cluster__rounds=1, leaf__rounds=1)
    run = make_run(tmp_path / "run", config)
    grow(run)
    rows = run.state.record.measurements
    assert sorted({r.round for r in rows if r.stage == "root"}) == [2, 4, 5]
    assert {r.round for r in rows if r.tier == "cluster"} == {6}
    assert {r.round for r in rows if r.tier == "leaf"} == {7}


def test_one_client_with_broken_updates_is_counted_and_training_goes_on(tmp_path: Path) -> None:
    def meddle(work: Work, update: Update) -> Update:
        return broken(update) if work.client == "c-0" else update

    run = make_run(tmp_path / "run", meddle=meddle)
    grow(run)
    rows = run.state.record.rounds
    assert all(r.rejected == 1 and r.participants == 5 for r in rows if r.stage == "root")
    assert sum(r.rejected for r in rows if r.stage == "cluster") == 2
    assert sorted(r.rejected for r in rows if r.stage == "leaf") == [0] * 5 + [2]
    assert run.state.root is not None
    tiers = (run.state.root, *run.state.clusters)
    assert all(
        p.B.isfinite().all() and p.A.isfinite().all() for t in tiers for p in t.pairs.values()
    )
    assert any(p.B.any() for p in run.state.root.pairs.values())


@pytest.mark.parametrize("value", [1e20, 1e3])
def test_one_client_with_huge_updates_is_counted_and_the_honest_ones_are_not(
    tmp_path: Path, value: float
) -> None:
    def meddle(work: Work, update: Update) -> Update:
        return huge(update, value) if work.client == "c-0" else update

    run, honest = make_run(tmp_path / "run", meddle=meddle), make_run(tmp_path / "honest")
    grow(run)
    grow(honest)
    rows = run.state.record.rounds
    assert all(r.rejected == 1 and r.participants == 5 for r in rows if r.stage == "root")
    assert sum(r.rejected for r in rows if r.stage == "cluster") == 2
    assert sorted(r.rejected for r in rows if r.stage == "leaf") == [0] * 5 + [2]
    assert all(r.rejected == 0 for r in honest.state.record.rounds)
    assert run.state.root is not None and honest.state.root is not None
    for name, pair in run.state.root.pairs.items():
        ordinary = honest.state.root.pairs[name].product().norm()
        assert 0 < float(pair.product().norm()) < 2 * float(ordinary)


def test_when_every_update_is_broken_the_run_still_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", meddle=lambda work, update: broken(update))
    grow(run)
    state, rows = run.state, run.state.record.rounds
    assert state.stage == "done" and state.root is not None
    assert all(r.participants == 0 and math.isnan(r.loss) for r in rows if r.stage == "root")
    assert sum(r.rejected for r in rows if r.stage == "root") == 12
    assert all(not p.B.any() for p in state.root.pairs.values())
    assert state.root.head.weight.isfinite().all()
    assert set(state.files["leaf"]) == {c.name for c in run.partition.seen}
    assert all(0 <= a.correct <= a.total for a in state.record.measurements)


def test_when_no_reply_ever_arrives_the_run_still_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", replace(settings(), dropout=1.0))
    grow(run)
    shared = [r for r in run.state.record.rounds if r.stage in ("root", "cluster")]
    assert all(r.participants == r.bytes_up == 0 and r.dropped > 0 for r in shared)
    assert run.state.stage == "done"


def test_a_tier_that_stands_still_stops_early(tmp_path: Path) -> None:
    rule = {"tau": 10.0, "patience": 2, "min_rounds": 3}
    flags = {f"{t}__{k}": v for t in ("root", "cluster") for k, v in rule.items()}
    run = make_run(tmp_path / "run", settings(root__rounds=6, cluster__rounds=7, **flags))
    grow(run)
    rows = run.state.record.rounds
    assert sum(r.stage == "root" for r in rows) == 3
    assert [sum(r.cluster == j and r.stage == "cluster" for r in rows) for j in (0, 1)] == [3, 3]
    assert run.state.total_rounds == 3 + 3 + 2
    measured = {a.round for a in run.state.record.measurements if a.tier == "root" and a.seen}
    assert measured == {3}


def test_a_cluster_that_stopped_is_left_alone_while_the_others_train(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(cluster__rounds=2))
    cascade.grow_root(run)
    cascade.make_clusters(run)
    run.state.clusters[0] = replace(run.state.clusters[0], stopped=True)
    before = tier_bytes(run.state.clusters[0])
    cascade.grow_clusters(run)
    assert tier_bytes(run.state.clusters[0]) == before
    rows = [r.cluster for r in run.state.record.rounds if r.stage == "cluster"]
    assert rows == [1, 1]


def heads(run: Run) -> dict[str, list]:
    state = run.state
    assert state.root is not None
    leaves = [run.folder.get(state, "leaf", c.name) for c in run.partition.seen]
    news = [run.folder.get(state, "newcomer", c.name) for c in run.partition.held_out]
    return {
        "root": [state.root.head],
        "clusters": [c.head for c in state.clusters],
        "leaves": [unpack_head(t) for t in leaves if t],
        "newcomers": [unpack_head(t) for t in news if t],
    }


def grown(folder: Path, **flags: object) -> Run:
    run = make_run(folder / "run", settings(**flags))
    grow(run)
    return run


def test_under_the_policy_global_one_head_serves_all(tmp_path: Path) -> None:
    found = heads(grown(tmp_path, head="global"))
    (root,) = found.pop("root")
    assert [len(v) for v in found.values()] == [2, 6, 2]
    assert all(same_head(root, head) for each in found.values() for head in each)


@pytest.mark.parametrize("policy", ["tiered", "local"])
def test_under_the_other_policies_every_tier_has_its_own_head(tmp_path: Path, policy: str) -> None:
    run = grown(tmp_path, head=policy)
    flat = [head for each in heads(run).values() for head in each]
    assert len(flat) == 1 + 2 + 6 + 2
    assert not any(same_head(flat[n], head) for n in range(len(flat)) for head in flat[:n])
    owners = set(run.state.files.get("head", {}))
    assert owners == ({c.name for c in run.partition.seen} if policy == "local" else set())


def mean_overlaps(run: Run) -> dict[str, float]:
    rows = run.state.record.overlaps
    pairs = {r.pair for r in rows}
    return {p: sum(r.overlap for r in rows if r.pair == p) / 6 for p in pairs}


def test_tiers_are_kept_apart_as_configured(tmp_path: Path) -> None:
    gammas = {"orthogonality__gamma_cluster": 5.0, "orthogonality__gamma_leaf": 5.0}
    found = {
        kind: mean_overlaps(grown(tmp_path / kind, orthogonality__kind=kind, **gammas))
        for kind in ("none", "soft", "soft_normalised", "hard")
    }
    assert all(set(f) == {"root-cluster", "root-leaf", "cluster-leaf"} for f in found.values())
    assert max(found["hard"].values()) < 1e-6
    for kind in ("soft", "soft_normalised"):
        assert sum(found[kind].values()) < 0.8 * sum(found["none"].values())


@pytest.mark.parametrize(("clients", "unseen"), [(1, 0), (2, 0), (3, 1)])
def test_fewer_than_three_clients_grow_a_root_and_leaves(
    tmp_path: Path, clients: int, unseen: int
) -> None:
    run = make_run(
        tmp_path / "run", settings(clustering__k=1), parts=partition(clients, unseen=unseen)
    )
    grow(run)
    assert run.state.stage == "done" and run.state.clusters == []
    assert len(run.state.files["leaf"]) == clients - unseen
    assert len(run.state.labels) == clients


def test_a_client_of_one_image_and_one_without_test_images_come_through(tmp_path: Path) -> None:
    plain = partition()
    rows = list(plain.clients)
    rows[0] = replace(rows[0], train=rows[0].train[:1])
    rows[1] = replace(rows[1], test=rows[1].test[:0])
    rows[7] = replace(rows[7], train=rows[7].train[:1], test=rows[7].test[:0])
    parts = replace(plain, clients=tuple(rows))
    config = settings(controls=("head_only", "local_pair", "local_lora"))
    run = make_run(tmp_path / "run", config, parts=parts)
    grow(run)
    measured = {a.client for a in run.state.record.measurements}
    assert measured == {c.name for c in plain.clients} - {"c-1", "c-7"}
    assert {"c-0", "c-1"} <= set(run.state.files["leaf"]) and "c-7" in run.state.files["newcomer"]
    leaf = run.folder.get(run.state, "leaf", "c-0")
    assert leaf is not None and all(p.B.isfinite().all() for p in unpack_pairs(leaf).values())


def test_progress_counts_every_stage_to_its_end(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def watch(progress: Progress) -> None:
        seen.setdefault(progress.stage, []).append((progress.done, progress.total))

    run = make_run(tmp_path / "run", settings(late=0.4), on_progress=watch)
    grow(run)
    stages = ["head", "calibration", "root", "clustering", "labels", "cluster", "leaf", "unseen"]
    assert list(seen) == stages
    founders = len(run.founders())
    assert len(seen["head"]) == len(seen["calibration"]) == founders == 4 < len(seen["labels"])
    for counts in seen.values():
        assert counts == [(n, len(counts)) for n in range(1, len(counts) + 1)]
    assert set(run.state.record.seconds) == set(STAGES)


def test_the_seed_decides_the_run(tmp_path: Path, whole: Run) -> None:
    other = make_run(tmp_path / "run", ALL, seed=1)
    cascade.grow_root(other)
    assert other.state.root is not None and whole.state.root is not None
    assert not same_pairs(other.state.root.pairs, whole.state.root.pairs)

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import CLASSES, backbone, dataset, make_run, same_head, same_pairs, settings

from silva.adapters.forest import Forest
from silva.adapters.routing import signature
from silva.adapters.tiers import AdapterPath
from silva.federation.cascade import grow
from silva.federation.harvest import harvest, latest_values
from silva.federation.material import image_material
from silva.federation.record import Accuracy, RunRecord
from silva.federation.run import Run
from silva.federation.state import unpack_head, unpack_pairs
from silva.models.adapted import adaptation_of

BASE = backbone()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Forest]:
    folder = tmp_path_factory.mktemp("harvest")
    run = make_run(folder / "run")
    grow(run)
    return run, harvest(run, folder / "forest", image_material(BASE, dataset()))


def test_the_forest_is_whole_and_names_its_base(grown: tuple[Run, Forest]) -> None:
    run, forest = grown
    assert forest.verify().sound and forest.version == 1
    assert forest.base.digest == BASE.digest and forest.class_names == CLASSES
    assert (forest.manifest.adapter.rank, forest.manifest.adapter.scaling) == (2, run.scaling)
    assert forest.clusters == ["cluster-0", "cluster-1"]
    assert forest.clients == [f"c-{n}" for n in range(8)]


def test_root_and_clusters_are_the_runs_tensors(grown: tuple[Run, Forest]) -> None:
    run, forest = grown
    assert run.state.root is not None
    for n, cluster in enumerate(run.state.clusters):
        root, own = forest.path(f"cluster-{n}").tiers
        assert same_pairs(root.pairs, run.state.root.pairs)
        assert same_head(root.head, run.state.root.head)
        assert same_pairs(own.pairs, cluster.pairs) and same_head(own.head, cluster.head)
        bases = signature({m: p.B for m, p in cluster.pairs.items()})
        stored = forest.signature(f"cluster-{n}")
        assert all(torch.equal(stored[m], bases[m]) for m in bases)


def test_the_forest_keeps_what_heads_assume_of_labels(grown: tuple[Run, Forest]) -> None:
    run, forest = grown
    priors = forest.manifest.labels
    assert priors is not None and priors == run.state.record.labels
    assert list(priors.groups) == forest.clusters
    assert Forest.load(forest.folder).manifest.labels == priors


def test_the_probe_is_where_the_clusters_started(grown: tuple[Run, Forest]) -> None:
    run, forest = grown
    start = run.fresh_pairs("cluster")
    assert all(torch.equal(A, start[n].A) for n, A in forest.probe().items())


def test_training_clients_get_their_leaves_and_held_out_ones_end_at_their_cluster(
    grown: tuple[Run, Forest],
) -> None:
    run, forest = grown
    for client in run.partition.clients:
        entry, path = forest.client(client.name), forest.path(client.name)
        assert entry.cluster == f"cluster-{run.state.labels[client.name]}"
        assert entry.seen == (client.name not in run.partition.unseen)
        assert entry.images == 12 and (entry.leaf is not None) == entry.seen
        stored = run.folder.get(run.state, "leaf", client.name)
        if stored is None:
            assert [t.name for t in path.tiers] == ["root", "cluster"]
        else:
            assert same_pairs(path.tiers[2].pairs, unpack_pairs(stored))
            assert same_head(path.head, unpack_head(stored))


def test_the_accuracies_in_the_forest_are_those_of_its_models(grown: tuple[Run, Forest]) -> None:
    run, forest = grown
    for rows in run.partition.clients:
        data, entry = run.clients.test(rows.name), forest.client(rows.name)
        path = forest.path(rows.name)
        assert set(entry.accuracy) == {t.name for t in path.tiers}
        for n, tier in enumerate(path.tiers):
            prefix = AdapterPath(path.tiers[: n + 1])
            adaptation = adaptation_of(prefix, BASE.model, merged=True)
            logits = BASE.model(data.pixels, (tier.head.weight, tier.head.bias), adaptation)
            right = float((logits.argmax(dim=1) == data.labels).float().mean())
            assert entry.accuracy[tier.name] == pytest.approx(right)


def test_merged_path_branches_and_one_adapter_of_rank_3r_are_one_model(
    grown: tuple[Run, Forest],
) -> None:
    _, forest = grown
    held = dataset()
    pixels = BASE.pixels(held.source.load(torch.arange(8).numpy() * 30, BASE.side))
    for client in ("c-0", "c-1", "c-6"):
        path = forest.path(client)
        flat = path.flattened()
        assert {p.rank for p in flat.pairs.values()} == {2 * len(path.tiers)}
        ways = [
            adaptation_of(path, BASE.model, merged=True),
            adaptation_of(path, BASE.model, merged=False),
            adaptation_of(AdapterPath((flat,)), BASE.model, merged=True),
            adaptation_of(AdapterPath((flat,)), BASE.model, merged=False),
        ]
        # The first head's weights are in the thousands here, so features are compared.
        features = [BASE.model.features(pixels, way) for way in ways]
        plain = BASE.model.features(pixels)
        assert float((features[0] - plain).abs().max()) > 1e-3
        assert all(float((f - features[0]).abs().max()) < 1e-5 for f in features)
        assert same_head(flat.head, path.head)


def test_one_cluster_makes_paths_of_root_and_leaf(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(clustering__k=1))
    grow(run)
    forest = harvest(run, tmp_path / "forest", image_material(BASE, dataset()))
    assert forest.clusters == [] and forest.manifest.probe is None and forest.verify().sound
    assert [t.name for t in forest.path("c-0").tiers] == ["root", "leaf"]
    assert [t.name for t in forest.path("c-6").tiers] == ["root"]
    assert set(forest.client("c-6").accuracy) == {"root"}


def test_the_last_measurement_of_a_tier_counts_and_controls_do_not() -> None:
    def row(tier: str, number: int, correct: int) -> Accuracy:
        return Accuracy("c-0", True, tier, "root", number, correct, 4)

    rows = [row("root", 1, 1), row("root", 2, 2), row("zero_leaf", 3, 3), row("head_only", 4, 4)]
    assert latest_values(RunRecord(measurements=rows)) == {"c-0": {"root": 0.5, "cluster": 0.75}}

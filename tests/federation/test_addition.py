from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    CLASSES,
    arrays,
    backbone,
    broken,
    dataset,
    make_run,
    same_head,
    save_data,
    settings,
)

from silva.adapters.forest import Forest
from silva.adapters.label_priors import even
from silva.adapters.tiers import Head, LoraPair
from silva.data.nouns import TEST, TRAIN, ImageDataset
from silva.data.sources import ArraySource
from silva.errors import ConfigError, DataError, ForestError
from silva.federation import addition
from silva.federation.addition import Added, add_client, open_for, settings_for
from silva.federation.cascade import grow
from silva.federation.client import Work, train_client
from silva.federation.config import FederationConfig
from silva.federation.harvest import harvest
from silva.federation.material import image_material
from silva.federation.prior_heads import under_prior

FLAGS = {
    "head_init": "zeros",
    "local__epochs": 3,
    "root__rounds": 4,
    "cluster__rounds": 4,
    "clustering__feature": "dB_ema",
    "probe_steps": 10,
}
CONFIG, BASE = settings(**FLAGS), backbone()
GROUPS = {"cluster-0": (0, 1), "cluster-1": (2, 3)}
"""The classes that the clusters' clients own."""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("addition")
    run = make_run(folder / "run", CONFIG)
    grow(run)
    harvest(run, folder / "forest", image_material(BASE, dataset()))
    return folder / "forest"


@pytest.fixture
def forest(grown: Path, tmp_path: Path) -> Forest:
    shutil.copytree(grown, tmp_path / "forest")
    return Forest.load(tmp_path / "forest")


def images(classes: tuple[int, ...], test: int = 6, train: int = 12) -> ImageDataset:
    """The last images of some classes, as a data set of one client."""
    held = arrays()
    rows: list[int] = []
    for part, count in ((TRAIN, train), (TEST, test)):
        for c in classes:
            mine = np.flatnonzero((held["label"] == c) & (held["split"] == part))
            rows += mine[len(mine) - count // len(classes) :].tolist()
    return ImageDataset(
        ArraySource(held["images"][rows]), held["label"][rows], CLASSES, held["split"][rows]
    )


def add(forest: Forest, data: ImageDataset, epochs: int = 0, **flags: object) -> Added:
    config = replace(CONFIG, **flags)
    return add_client(forest, "new-1", image_material(BASE, data), config, epochs)


@pytest.mark.parametrize("cluster", GROUPS)
def test_a_client_joins_the_cluster_of_its_kind(forest: Forest, cluster: str) -> None:
    added = add(forest, images(GROUPS[cluster]))
    assert added.cluster == cluster == added.by_loss
    assert list(added.similarities) == list(added.losses) == forest.clusters
    assert max(added.similarities, key=added.similarities.__getitem__) == cluster
    assert set(added.figures) == {"root", "cluster"} and added.images == 12
    entry = Forest.load(forest.folder).client("new-1")
    assert (entry.cluster, entry.leaf, entry.seen, entry.images) == (cluster, None, False, 12)
    assert entry.accuracy == added.figures


def test_nothing_else_in_the_forest_changes(forest: Forest) -> None:
    before = forest.manifest
    after = add(forest, images((0, 1)), epochs=1).forest.manifest
    assert after.version == 2 and after.parent == 1
    assert (after.root, after.clusters, after.probe) == (before.root, before.clusters, before.probe)
    assert {n: c for n, c in after.clients.items() if n != "new-1"} == dict(before.clients)
    assert len(set(after.objects) - set(before.objects)) == 1


def test_a_leaf_is_tuned_when_asked_for(forest: Forest) -> None:
    added = add(forest, images((2, 3)), epochs=2)
    path = added.forest.path("new-1")
    assert added.leaf and [t.name for t in path.tiers] == ["root", "cluster", "leaf"]
    assert added.rejected == 0
    assert all(p.B.any() for p in path.tiers[2].pairs.values())
    assert not torch.equal(path.head.weight, path.tiers[1].head.weight)
    assert set(added.figures) == {"root", "cluster", "leaf"}


def test_the_same_client_gives_the_same_leaf(forest: Forest, grown: Path) -> None:
    one = add(forest, images((0, 1)), epochs=2).forest.client("new-1")
    forest.remove("new-1")
    other = add(Forest.load(forest.folder), images((0, 1)), epochs=2).forest.client("new-1")
    assert one == other


def test_under_a_global_head_the_leaf_keeps_it(forest: Forest) -> None:
    added = add(forest, images((0, 1)), epochs=1, head="global")
    path = added.forest.path("new-1")
    assert torch.equal(path.head.weight, path.tiers[1].head.weight)
    assert torch.equal(path.head.bias, path.tiers[1].head.bias)
    assert all(p.B.any() for p in path.tiers[2].pairs.values())


def test_routing_looks_at_no_test_image(forest: Forest, grown: Path) -> None:
    seen = add(forest, images((0, 1)))
    forest.remove("new-1")
    blind = add(Forest.load(forest.folder), images((0, 1), test=0))
    assert (blind.similarities, blind.losses) == (seen.similarities, seen.losses)
    assert blind.figures == {} and blind.cluster == seen.cluster


def test_one_image_is_enough(forest: Forest) -> None:
    added = add(forest, images((2,), test=0, train=1), epochs=1)
    assert added.images == 1 and added.forest.path("new-1").tiers[-1].name == "leaf"


def test_where_the_probe_ends_in_NaN_the_loss_decides(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = addition.train_client
    monkeypatch.setattr(addition, "train_client", lambda *given: broken(real(*given)))
    added = add(forest, images((2, 3)), epochs=2)
    assert added.similarities == {} and added.cluster == added.by_loss == "cluster-1"
    assert added.rejected == 1 + 2
    pairs: dict[str, LoraPair] = dict(added.forest.path("new-1").tiers[2].pairs)
    assert not any(p.B.any() for p in pairs.values())


def test_a_taken_or_illegal_name_is_refused(forest: Forest) -> None:
    for name, why in (("c-0", "there already"), ("../c", "name"), ("", "name")):
        with pytest.raises(ForestError, match=why):
            add_client(forest, name, image_material(BASE, images((0, 1))), CONFIG)
    assert Forest.load(forest.folder).version == 1


def test_data_that_do_not_fit_are_refused(forest: Forest) -> None:
    data = images((0, 1))
    with pytest.raises(ForestError, match="class list"):
        add(forest, replace(data, class_names=CLASSES[::-1]))
    with pytest.raises(DataError, match="no training images"):
        add(forest, replace(data, split=np.full(len(data), TEST, dtype=np.uint8)))
    assert Forest.load(forest.folder).version == 1


def test_without_a_split_all_images_are_for_training(forest: Forest) -> None:
    data = images((0, 1))
    added = add(forest, replace(data, split=None))
    assert added.images == len(data) and added.figures == {}


def test_a_forest_of_one_cluster_takes_clients_without_routing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(clustering__k=1))
    grow(run)
    forest = harvest(run, tmp_path / "forest", image_material(BASE, dataset()))
    added = add(forest, images((0, 1)), epochs=1)
    assert added.cluster is added.by_loss is None and added.similarities == added.losses == {}
    assert [t.name for t in added.forest.path("new-1").tiers] == ["root", "leaf"]


def test_the_settings_of_the_run_come_from_the_forest_alone(forest: Forest) -> None:
    found = settings_for(forest, {})
    assert found == CONFIG and found.local.lr != FederationConfig().local.lr
    assert not (forest.folder / "report").exists()


def test_later_versions_keep_the_settings(forest: Forest) -> None:
    later = add(forest, images((0, 1))).forest
    assert settings_for(later, {}) == CONFIG and later.manifest.labels == forest.manifest.labels
    assert settings_for(Forest.load(later.folder), {}) == CONFIG


def test_flags_override_the_settings_of_the_run(forest: Forest) -> None:
    found = settings_for(forest, {"federation.local.lr": 0.5, "federation.probe_steps": 7})
    assert (found.local.lr, found.probe_steps) == (0.5, 7)
    assert found.local.head_lr == CONFIG.local.head_lr


def test_a_forest_that_does_not_say_gets_the_defaults(forest: Forest) -> None:
    forest.manifest = replace(forest.manifest, settings=None)
    assert settings_for(forest, {}) == FederationConfig()
    assert settings_for(forest, {"federation.local.lr": 0.5}).local.lr == 0.5


def first_head(forest: Forest, monkeypatch: pytest.MonkeyPatch, **flags: object) -> Head:
    """The head that the leaf of a client with images of the first classes starts from."""
    works: list[Work] = []

    def watched(task, data, work: Work, *rest):
        works.append(work)
        return train_client(task, data, work, *rest)

    monkeypatch.setattr(addition, "train_client", watched)
    add(forest, images(GROUPS["cluster-0"]), epochs=1, **flags)
    return works[-1].head


def test_a_leaf_starts_from_the_labels_of_client_and_cluster(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    priors, above = forest.manifest.labels, forest.path("cluster-0").head
    assert priors is not None
    counts = np.array([6.0, 6.0, 0.0, 0.0])
    old, new = priors.group("cluster-0", 4), priors.member("cluster-0", counts)
    found = first_head(forest, monkeypatch)
    assert same_head(found, under_prior(above, old, new)) and not same_head(found, above)


def test_a_leaf_starts_from_the_cluster_where_labels_are_left_out(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = first_head(forest, monkeypatch, label_prior="even")
    assert same_head(found, forest.path("cluster-0").head)


def test_a_forest_of_an_earlier_version_takes_clients_as_it_did(
    forest: Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an image of each class was added to a client's own, and its settings said so."""
    stored = dict(forest.manifest.settings or {})
    del stored["label_prior"]
    stored["leaf"] = {**stored["leaf"], "label_prior": 0.5}
    forest.manifest = replace(forest.manifest, settings=stored, labels=None)
    assert settings_for(forest, {}) == CONFIG
    above, counts = forest.path("cluster-0").head, np.array([6.5, 6.5, 0.5, 0.5])
    found = first_head(forest, monkeypatch)
    assert same_head(found, under_prior(above, even(4), counts / counts.sum()))


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("federation.rounds", 3, "no part"),
        ("federation.adapter.rank", 4, "no part"),
        ("federation.local.epochs", 2, "no part"),
        ("federation.local", 2, "no part"),
        ("local.lr", 0.1, "no part"),
        ("seed", 1, "no part"),
        ("federation.local.lr", "fast", "not a number"),
        ("federation.local.lr", -1.0, "out of range"),
    ],
)
def test_a_setting_that_does_nothing_here_is_refused(
    forest: Forest, name: str, value: object, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        settings_for(forest, {name: value})


def test_classes_are_numbered_as_the_forest_numbers_them(forest: Forest, tmp_path: Path) -> None:
    held = arrays()
    order = np.array([2, 0, 3, 1])
    names = tuple(CLASSES[c] for c in order)
    np.savez(
        tmp_path / "own.npz",
        **{**held, "label": np.argsort(order)[held["label"]], "class_names": np.array(names)},
    )
    found = open_for(forest, str(tmp_path / "own.npz"))
    assert found.class_names == CLASSES
    assert found.labels.tolist() == dataset().labels.tolist()


def test_an_unknown_class_is_named(forest: Forest, tmp_path: Path) -> None:
    held = {**arrays(), "class_names": np.array(["ant", "bee", "cow", "unicorn"])}
    np.savez(tmp_path / "own.npz", **held)
    with pytest.raises(ForestError, match=r"does not know.*unicorn"):
        open_for(forest, str(tmp_path / "own.npz"))
    assert len(open_for(forest, str(save_data(tmp_path / "good.npz")))) == len(dataset())

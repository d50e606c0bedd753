from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from silva.data.nouns import TEST, TRAIN, ImageDataset, Partition
from silva.data.partition import make_partition
from silva.errors import PartitionError

SYNTHETIC = (
    "gl_dir(1.0)",
    "sc_dir(2,3.0)",
    "sc_dir(2,3.0,groups=3)",
    "patho_shards(3)",
    "patho_grouped(4)",
    "domain_dir(0.5)",
    "planted(4)",
)


class Grey:
    """A source of plain images, of one colour."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def load(self, rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
        return np.full((len(rows), side, side, 3), 128, dtype=np.uint8)


def make_dataset(per_class: int = 60, test_share: int = 5, seed: int = 0) -> ImageDataset:
    """12 classes in 6 superclasses, 3 domains, every fifth image for testing, shuffled."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(12), per_class))
    split = np.where(np.arange(len(labels)) % test_share == 0, TEST, TRAIN).astype(np.uint8)
    columns = {"coarse": labels // 2, "domain": rng.integers(0, 3, len(labels))}
    names = {"domain": ("photo", "sketch", "art_painting")}
    classes = tuple(f"class {i}" for i in range(12))
    return ImageDataset(Grey(len(labels)), labels, classes, split, columns, names)


DATASET = make_dataset()


def make(spec: str, dataset: ImageDataset = DATASET, **changes: float) -> Partition:
    numbers = {"clients": 12, "unseen": 0.25, "samples_per_client": 20, "test_per_client": 15}
    return make_partition(dataset, spec, **{**numbers, "seed": 0, **changes})  # type: ignore


def assert_sound(partition: Partition, dataset: ImageDataset) -> None:
    """What holds for every partition: owners, splits, names, order."""
    assert dataset.split is not None
    train = np.concatenate([client.train for client in partition.clients])
    assert len(np.unique(train)) == len(train)
    assert (dataset.split[train] == TRAIN).all()
    for client in partition.clients:
        assert client.train.dtype == client.test.dtype == np.int64
        assert len(client.train) > 0 and len(client.test) > 0
        assert len(np.unique(client.test)) == len(client.test)
        assert (dataset.split[client.test] == TEST).all()
        assert set(dataset.labels[client.test]) <= set(dataset.labels[client.train])
    names = [client.name for client in partition.clients]
    assert len(set(names)) == len(names) and partition.unseen < set(names)


def same(one: Partition, other: Partition) -> bool:
    return (one.spec, one.unseen) == (other.spec, other.unseen) and all(
        (a.name, a.group, a.style, a.train.tolist(), a.test.tolist())
        == (b.name, b.group, b.style, b.train.tolist(), b.test.tolist())
        for a, b in zip(one.clients, other.clients, strict=True)
    )


@given(
    spec=st.sampled_from(SYNTHETIC),
    clients=st.integers(4, 20),
    samples=st.integers(1, 20),
    unseen=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_every_synthetic_partition_is_sound(
    spec: str, clients: int, samples: int, unseen: float, seed: int
) -> None:
    numbers = {"clients": clients, "samples_per_client": samples, "unseen": unseen, "seed": seed}
    partition = make(spec, **numbers)
    assert_sound(partition, DATASET)
    assert len(partition.clients) == clients
    assert all(len(client.train) == samples for client in partition.clients)
    assert all(1 <= len(client.test) <= 15 for client in partition.clients)
    assert len(partition.unseen) == min(int(unseen * clients + 0.5), clients - 1)
    groups = {client.group for client in partition.clients}
    if clients - len(partition.unseen) >= len(groups):
        assert {client.group for client in partition.seen} == groups
    assert same(partition, make(spec, **numbers))


@pytest.mark.parametrize("spec", SYNTHETIC)
def test_zero_samples_deal_out_everything(spec: str) -> None:
    partition = make(spec, samples_per_client=0)
    assert_sound(partition, DATASET)
    dealt = sum(len(client.train) for client in partition.clients)
    wanted = {DATASET.labels[row] for c in partition.clients for row in c.train}
    assert dealt == np.isin(DATASET.labels[DATASET.split == TRAIN], list(wanted)).sum()


@pytest.mark.parametrize("spec", SYNTHETIC)
def test_seeds_differ_and_columns_come_in_any_order(spec: str) -> None:
    turned = replace(DATASET, columns=dict(reversed(DATASET.columns.items())))
    assert same(make(spec), make(spec, turned))
    assert not same(make(spec), make(spec, seed=1))


def test_test_images_follow_the_clients_train_classes() -> None:
    large = make_dataset(per_class=300)
    for client in make("sc_dir(2,3.0)", large, test_per_client=40).clients:
        train, test = (
            np.bincount(large.labels[rows], minlength=12) / len(rows)
            for rows in (client.train, client.test)
        )
        assert len(client.test) == 40 and np.abs(train - test).max() <= 1 / 40


def test_names_are_padded_to_the_last_number() -> None:
    assert [c.name for c in make("planted(1)", clients=3).clients] == ["c-00", "c-01", "c-02"]
    names = [c.name for c in make("planted(1)", clients=101, samples_per_client=1).clients]
    assert names[0] == "c-000" and names[-1] == "c-100"


def test_gl_dir_leaves_ten_images_to_everyone_or_says_what_to_change() -> None:
    partition = make("gl_dir(0.5)", samples_per_client=0, clients=10)
    assert min(len(client.train) for client in partition.clients) >= 10
    with pytest.raises(PartitionError, match="raise alpha, lower clients"):
        make("gl_dir(0.001)", samples_per_client=0, clients=40)
    with pytest.raises(PartitionError, match="lower clients"):
        make("gl_dir(5)", samples_per_client=0, clients=100)


def test_gl_dir_deals_to_a_thousand_clients() -> None:
    dataset = make_dataset(per_class=2000)
    partition = make("gl_dir(0.3)", dataset, clients=1000, samples_per_client=5)
    assert_sound(partition, dataset)
    assert {len(client.train) for client in partition.clients} == {5}


def test_sc_dir_gives_each_client_its_superclasses() -> None:
    for client in make("sc_dir(2,3.0)").clients:
        assert len(set(DATASET.labels[client.train] // 2)) <= 2 and client.group == -1
    grouped = make("sc_dir(2,3.0,groups=3)", samples_per_client=30)
    supers: dict[int, set[int]] = {}
    for client in grouped.clients:
        supers.setdefault(client.group, set()).update(DATASET.labels[client.train] // 2)
    assert sorted(supers) == [0, 1, 2] and set.union(*supers.values()) == set(range(6))
    assert all(len(found) == 2 for found in supers.values())
    sizes = np.bincount([client.group for client in grouped.clients])
    assert sizes.tolist() == [4, 4, 4]


def test_patho_shards_holds_c_classes_in_equal_parts_without_groups() -> None:
    partition = make("patho_shards(4)")
    for client in partition.clients:
        assert np.unique(DATASET.labels[client.train], return_counts=True)[1].tolist() == [5] * 4
        assert client.group == -1
    sets = {tuple(np.unique(DATASET.labels[client.train])) for client in partition.clients}
    assert len(sets) > 3


def test_patho_grouped_groups_own_disjoint_classes() -> None:
    owners: dict[int, set[int]] = {}
    for client in make("patho_grouped(5)").clients:
        for label in np.unique(DATASET.labels[client.train]).tolist():
            owners.setdefault(label, set()).add(client.group)
    assert len(owners) == 10 and all(len(groups) == 1 for groups in owners.values())


def test_domain_dir_keeps_train_and_test_inside_the_clients_domain() -> None:
    partition = make("domain_dir(0.5)")
    domains = DATASET.columns["domain"]
    for client in partition.clients:
        assert set(domains[client.train]) == set(domains[client.test]) == {client.group}
    assert np.bincount([c.group for c in partition.clients]).tolist() == [4, 4, 4]
    assert len({c.group for c in make("domain_dir(0.5)", clients=2).clients}) == 2


def test_planted_groups_differ_in_style_alone() -> None:
    assert {(c.group, c.style) for c in make("planted(1)").clients} == {(0, "")}
    four = {(c.group, c.style) for c in make("planted(4)").clients}
    assert four == {(0, ""), (1, "inverted"), (2, "edges"), (3, "rotated")}
    named = {(c.group, c.style) for c in make("planted(2,noisy,plain)").clients}
    assert named == {(0, "noisy"), (1, "")}


@pytest.mark.parametrize(
    ("spec", "changes", "cause"),
    [
        ("planted(1)", {"samples_per_client": 500}, "12 clients x 500 samples need more than"),
        ("planted(1)", {"clients": 9999, "samples_per_client": 0}, "9999 clients x 1 samples"),
        ("sc_dir(2,3)", {"samples_per_client": 48, "seed": 1}, "run out of train images"),
        ("sc_dir(7,3)", {}, "the data set has 6; lower n_super"),
        ("sc_dir(2,3,groups=4)", {}, "4 x 2 superclasses are wanted"),
        ("sc_dir(1,3,groups=5)", {"clients": 4}, "5 groups are more than 4 clients"),
        ("patho_shards(13)", {}, "lower c"),
        ("patho_grouped(13)", {}, "lower c"),
        ("planted(9)", {}, "9 groups need as many different styles"),
        ("planted(2,edges)", {}, "2 groups need as many different styles"),
        ("planted(2,edges,edges)", {}, "there are 1"),
        ("planted(1,sepia)", {}, "no style is called 'sepia'"),
        ("planted(1)", {"unseen": 1.0}, "a share in [0, 1)"),
        ("planted(1)", {"clients": 0}, "at least 1 client"),
        ("by_column(site)", {}, "no column 'site'"),
        ("by_folder", {}, "no column 'client'"),
    ],
)
def test_what_cannot_be_dealt_says_what_to_change(
    spec: str, changes: dict[str, float], cause: str
) -> None:
    with pytest.raises(PartitionError) as caught:
        make(spec, **changes)
    line = str(caught.value)
    assert cause in line and spec.split("(")[0] in line and ";" in line


def test_a_missing_column_lists_the_partitions_that_work() -> None:
    plain = replace(DATASET, columns={"domain": DATASET.columns["domain"]})
    with pytest.raises(PartitionError, match=r"gl_dir, .*domain_dir, by_column\(domain\)"):
        make("sc_dir(2,3.0)", plain)


def test_a_data_set_without_split_asks_for_one() -> None:
    with pytest.raises(PartitionError, match="--split"):
        make("planted(1)", replace(DATASET, split=None))
    only_train = np.full(len(DATASET), TRAIN, dtype=np.uint8)
    with pytest.raises(PartitionError, match="no test images"):
        make("planted(1)", replace(DATASET, split=only_train))


def test_a_client_whose_classes_are_never_tested_is_refused() -> None:
    split = np.where(DATASET.labels < 6, TRAIN, DATASET.split).astype(np.uint8)
    with pytest.raises(PartitionError, match="get no test images"):
        make("patho_grouped(1)", replace(DATASET, split=split))


def with_clients(names: tuple[str, ...] | None, values: NDArray[np.int64]) -> ImageDataset:
    columns = {**DATASET.columns, "client": values}
    named = DATASET.names if names is None else {**DATASET.names, "client": names}
    return replace(DATASET, columns=columns, names=named)


FOUR = np.arange(len(DATASET)) // 5 % 4


def test_by_folder_takes_clients_and_names_from_the_data() -> None:
    dataset = with_clients(("zoe", "ann", "bob", "cy.2"), FOUR)
    partition = make("by_folder", dataset, samples_per_client=0, test_per_client=10_000)
    assert_sound(partition, dataset)
    assert [c.name for c in partition.clients] == ["ann", "bob", "cy.2", "zoe"]
    assert len(partition.unseen) == 1 and {c.group for c in partition.clients} == {-1}
    ann = partition.clients[0]
    assert sorted([*ann.train, *ann.test]) == np.flatnonzero(FOUR == 1).tolist()
    capped = make("by_folder", dataset, samples_per_client=7, test_per_client=3)
    assert {(len(c.train), len(c.test)) for c in capped.clients} == {(7, 3)}


def test_by_column_takes_any_column_named_or_numbered() -> None:
    by_domain = make("by_column(domain)", samples_per_client=0)
    assert [c.name for c in by_domain.clients] == ["art_painting", "photo", "sketch"]
    by_class = make("by_column(coarse)", samples_per_client=0)
    assert [c.name for c in by_class.clients] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "name", ["../x", "", "root", "base", "cluster-2", "Ann", "a/b", ".a", "a" * 65, "a\n", "é"]
)
def test_a_hostile_client_name_is_refused_not_repaired(name: str) -> None:
    with pytest.raises(PartitionError, match="client name") as caught:
        make("by_folder", with_clients(("ann", "bob", name, "cy"), FOUR))
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)


def test_by_folder_refuses_empty_clients_and_double_names() -> None:
    assert DATASET.split is not None
    no_test = with_clients(("a", "b"), np.where(DATASET.split == TEST, 0, FOUR % 2))
    with pytest.raises(PartitionError, match="client b has no test images"):
        make("by_folder", no_test)
    with pytest.raises(PartitionError, match="two clients are called a"):
        make("by_folder", with_clients(("a", "b", "a", "c"), FOUR))
    with pytest.raises(PartitionError, match="has no name"):
        make("by_folder", with_clients(("a", "b"), FOUR))


def shared_labels(path: Path) -> ImageDataset:
    if not path.exists():
        pytest.skip(f"needs {path.name} in ../shared/data")
    arrays = np.load(path, allow_pickle=False)
    labels = arrays["label"].astype(np.int64)
    columns = {k: arrays[k].astype(np.int64) for k in ("coarse", "domain") if k in arrays.files}
    classes = tuple(arrays["class_names"].tolist())
    return ImageDataset(Grey(len(labels)), labels, classes, arrays["split"], columns)


def test_the_protocol_of_superclasses_on_tiny_imagenet(shared_data: Path) -> None:
    dataset = shared_labels(shared_data / "tin32_fed100.npz")
    partition = make("sc_dir(2,3.0,groups=6)", dataset, clients=24, samples_per_client=100)
    assert_sound(partition, dataset)
    assert len({client.group for client in partition.seen}) == 6


def test_the_protocol_of_domains_on_pacs(shared_data: Path) -> None:
    dataset = shared_labels(shared_data / "pacs64.npz")
    partition = make("domain_dir(0.5)", dataset, clients=40, samples_per_client=50)
    assert_sound(partition, dataset)
    assert len({client.group for client in partition.seen}) == 4

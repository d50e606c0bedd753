"""Who owns which row: `make_partition` deals a data set out to clients as a spec says.

Train images belong to one client each. Test images may be shared: every client gets test images in
the proportions of its own train classes, so that its test set is drawn as its train set is; two
clients may meet the same test image, no client the same one twice, and none a train image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silva.data.client_names import numbered_names
from silva.data.dealing import (
    Counts,
    deal_equally,
    deal_everything,
    draw_disjoint,
    draw_shared,
)
from silva.data.mixtures import Cells, mixture
from silva.data.nouns import TEST, TRAIN, ClientRows, Dataset, Partition
from silva.data.owned import clients_of_column
from silva.data.partition_io import load_partition, save_partition
from silva.data.spec import PartitionSpec, known_partitions, parse_spec
from silva.errors import PartitionError

__all__ = [
    "known_partitions",
    "load_partition",
    "make_partition",
    "parse_spec",
    "save_partition",
]

_LEVELS = {"sc_dir": "coarse", "domain_dir": "domain"}
"""The column that a synthetic partition goes by, beside the class."""


def make_partition(
    dataset: Dataset,
    spec: str,
    *,
    clients: int,
    unseen: float,
    samples_per_client: int,
    test_per_client: int,
    seed: int,
    after: Callable[[int, int], None] = lambda read, total: None,
) -> Partition:
    """Deal the data set out; equal arguments give equal partitions.

    clients             number of clients; by_folder and by_column take it from the data instead
    unseen              share of the clients that is held out of training, in [0, 1)
    samples_per_client  train images each; 0 deals out everything
    test_per_client     test images each, at most
    after               hears how many of how many images have been read to see whether they can be

    Raises PartitionError when the spec is malformed, the data set lacks what the partition goes
    by (a train/test split, a column), or its images do not suffice; DataError for an image dealt
    out that cannot be decoded.
    """
    parsed = parse_spec(spec)
    if parsed.name == "planted" and not dataset.styled:
        raise PartitionError(
            f"styles change images, and the data are {dataset.unit}",
            where=str(parsed),
            remedy="use by_folder, by_column, domain_dir or gl_dir",
        )
    if clients < 1 or not 0 <= unseen < 1 or samples_per_client < 0 or test_per_client < 1:
        raise PartitionError(
            f"{clients} clients, {unseen} of them unseen, {samples_per_client} train and "
            f"{test_per_client} test images each cannot be",
            where=str(parsed),
            remedy="at least 1 client and 1 test image, and a share in [0, 1)",
        )
    _check_split(dataset, parsed)
    column = parsed.column if parsed.name.startswith("by_") else _LEVELS.get(parsed.name)
    if column is not None and column not in dataset.columns:
        raise _column_missing(dataset, parsed, column)
    deal_seed, unseen_seed = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.Generator(np.random.PCG64(deal_seed))
    try:
        if parsed.name.startswith("by_"):
            rows = clients_of_column(
                dataset, parsed.column, samples_per_client, test_per_client, rng
            )
        else:
            rows = _deal(dataset, parsed, clients, samples_per_client, test_per_client, rng)
    except PartitionError as error:
        raise PartitionError(
            error.what, where=error.where or str(parsed), remedy=error.remedy
        ) from None
    dataset.check(rows, after)
    held_out = _choose_unseen(rows, unseen, np.random.Generator(np.random.PCG64(unseen_seed)))
    return Partition(str(parsed), tuple(rows), held_out)


def _check_split(dataset: Dataset, spec: PartitionSpec) -> None:
    if dataset.split is None:
        raise PartitionError(
            f"the data set does not say which {dataset.unit} are for training and which for testing",
            where=str(spec),
            remedy=f"give --split a column, or a share such as 0.2 for the test {dataset.unit}",
        )
    for value, kind in ((TRAIN, "train"), (TEST, "test")):
        if not np.any(dataset.split == value):
            raise PartitionError(
                f"the data set has no {kind} {dataset.unit}",
                where=str(spec),
                remedy="choose another --split",
            )


def _column_missing(dataset: Dataset, spec: PartitionSpec, column: str) -> PartitionError:
    fitting = ["gl_dir", "patho_shards", "patho_grouped", "planted"]
    fitting += [name for name, needed in _LEVELS.items() if needed in dataset.columns]
    fitting += ["by_folder"] if "client" in dataset.columns else []
    fitting += [f"by_column({name})" for name in sorted(dataset.columns)]
    return PartitionError(
        f"the data set has no column {column!r}",
        where=str(spec),
        remedy=f"partitions that work with this data are {', '.join(fitting)}",
    )


@dataclass(frozen=True)
class _Pools:
    """The cells of a data set and, in the same order, the rows of each."""

    cells: Cells
    train: list[NDArray[np.int64]]
    test: list[NDArray[np.int64]]


def _pools(dataset: Dataset, column: str | None) -> _Pools:
    labels = dataset.labels.astype(np.int64)
    level = dataset.columns[column].astype(np.int64) if column else np.zeros_like(labels)
    pairs = np.stack([level, labels])
    found, cell = np.unique(pairs, axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    train, test = (
        _rows_by_cell(np.flatnonzero(dataset.split == part), cell, found.shape[1])
        for part in (TRAIN, TEST)
    )
    used = [i for i, rows in enumerate(train) if len(rows)]
    stock = np.array([len(train[i]) for i in used], dtype=np.int64)
    cells = Cells(found[0, used], found[1, used], stock)
    return _Pools(cells, [train[i] for i in used], [test[i] for i in used])


def _rows_by_cell(
    rows: NDArray[np.int64], cell: NDArray[np.int64], cells: int
) -> list[NDArray[np.int64]]:
    order = np.argsort(cell[rows], kind="stable")
    sizes = np.bincount(cell[rows], minlength=cells)
    return np.split(rows[order], np.cumsum(sizes)[:-1])


def _deal(
    dataset: Dataset,
    spec: PartitionSpec,
    clients: int,
    samples: int,
    most_test: int,
    rng: np.random.Generator,
) -> list[ClientRows]:
    """Synthetic partitions: weights, then whole images, then the rows."""
    pools = _pools(dataset, _LEVELS.get(spec.name))
    needed, held = clients * max(samples, 1), int(pools.cells.stock.sum())
    if needed > held:
        raise PartitionError(
            f"{clients} clients x {max(samples, 1)} samples need more than the data set's {held} "
            f"train {dataset.unit}",
            remedy="use fewer clients or fewer samples per client",
        )
    mixed = mixture(spec, pools.cells, clients, samples, rng)
    if samples:
        counts = deal_equally(mixed.weights, pools.cells.stock, samples)
    else:
        counts = deal_everything(mixed.weights, pools.cells.stock)
    names = numbered_names(clients)
    _refuse_empty(counts, names, "train", dataset.unit)
    train = draw_disjoint(counts, pools.train, rng)
    test = draw_shared(counts, pools.test, most_test, rng)
    _refuse_empty(np.array([[len(rows)] for rows in test]), names, "test", dataset.unit)
    styles = [mixed.styles[group] if mixed.styles else "" for group in mixed.groups]
    return [
        ClientRows(*each)
        for each in zip(names, train, test, mixed.groups.tolist(), styles, strict=True)
    ]


def _refuse_empty(counts: Counts, names: list[str], kind: str, unit: str) -> None:
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(empty):
        remedies = {
            "train": "lower clients, raise alpha, or set samples per client",
            "test": f"choose another --split: the test {unit} lack the client's classes",
        }
        raise PartitionError(
            f"{len(empty)} of {len(names)} clients get no {kind} {unit} (first {names[empty[0]]})",
            remedy=remedies[kind],
        )


def _choose_unseen(
    clients: list[ClientRows], share: float, rng: np.random.Generator
) -> frozenset[str]:
    """Hold out round(share * clients), always leaving one seen; evenly over the true groups, each
    of which keeps a seen client as long as there are enough."""
    wanted = min(int(share * len(clients) + 0.5), len(clients) - 1)
    groups: dict[int, list[str]] = {}
    for i in rng.permutation(len(clients)):
        groups.setdefault(clients[i].group, []).append(clients[i].name)
    seen = [list(names) for names in groups.values()]
    sizes = [len(names) for names in seen]
    held_out: set[str] = set()
    for _ in range(wanted):
        most = max(range(len(seen)), key=lambda g: (len(seen[g]) > 1, len(seen[g]) / sizes[g]))
        held_out.add(seen[most].pop())
    return frozenset(held_out)

"""Data that already belongs to clients: a column of the data set says whose each row is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silva.data.client_names import check_client_name
from silva.data.nouns import TEST, TRAIN, ClientRows, Dataset
from silva.errors import PartitionError


def clients_of_column(
    dataset: Dataset, column: str, samples: int, most_test: int, rng: np.random.Generator
) -> list[ClientRows]:
    """The clients that `column` names, in order of name; each keeps its own rows.

    A client with more than `samples` train rows (unless samples is 0) or `most_test` test rows
    takes part with a random choice of them. Raises PartitionError for a name that no client may
    have, two values of one name, and a client without train or without test rows.
    """
    assert dataset.split is not None
    values = dataset.columns[column]
    clients = []
    for name, value in sorted(_named(dataset, column).items()):
        mine = values == value
        train = np.flatnonzero(mine & (dataset.split == TRAIN))
        test = np.flatnonzero(mine & (dataset.split == TEST))
        for rows, kind in ((train, "train"), (test, "test")):
            if not len(rows):
                raise PartitionError(
                    f"client {name} has no {kind} {dataset.unit}",
                    where=f"column {column!r}",
                    remedy="give it some, remove the client, or choose another --split",
                )
        train = _at_most(train, samples or len(train), rng)
        clients.append(ClientRows(name, train, _at_most(test, most_test, rng)))
    return clients


def _named(dataset: Dataset, column: str) -> dict[str, int]:
    """Client name -> value of the column, for the values that occur."""
    names = dataset.names.get(column)
    where = f"column {column!r}"
    found: dict[str, int] = {}
    for value in np.unique(dataset.columns[column]).tolist():
        named = names is not None and 0 <= value < len(names)
        if names is not None and not named:
            raise PartitionError(f"value {value} has no name among {len(names)}", where=where)
        name = check_client_name(names[value] if names is not None else str(value), where)
        if name in found:
            raise PartitionError(
                f"two clients are called {name}", where=where, remedy="rename one of them"
            )
        found[name] = value
    return found


def _at_most(rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))

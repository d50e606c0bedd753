"""A partition on disk: `partition.json`, the assignment itself, and `histogram.png` beside it.

{"format": 1, "spec", "images": rows of the data set, "classes": [...],
 "clients": [{"name", "group", "style", "train": [rows], "test": [rows]}], "unseen": [names]}
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silva.adapters.files import read_limited, write_atomic
from silva.data.client_names import check_client_name
from silva.data.nouns import ClientRows, Dataset, Partition
from silva.data.styles import check_style
from silva.errors import ForestError, PartitionError

_FORMAT = 1
_LARGEST_BYTES = 1 << 29
_MOST_IMAGES = 1 << 31
_MOST_GROUPS = 1_000_000
_REMEDY = "remove the file and make the partition again"


def save_partition(partition: Partition, dataset: Dataset, folder: str | Path) -> None:
    """Write partition.json and histogram.png into `folder`, which is made; each file is replaced
    whole or not at all. Raises PartitionError when the disk refuses."""
    # matplotlib takes a second to import and only a saved partition needs it.
    from silva.data.histogram import class_counts, draw_histogram

    picture = io.BytesIO()
    counts = class_counts(partition, dataset)
    draw_histogram(partition, counts, dataset.class_names, picture, dataset.unit)
    text = json.dumps(_plain(partition, dataset), separators=(",", ":"), sort_keys=True)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "histogram.png", picture.getvalue())
        write_atomic(folder / "partition.json", text.encode())
    except ForestError as error:
        raise PartitionError(error.what, where=error.where, remedy=error.remedy) from None
    except OSError as error:
        raise PartitionError(
            f"cannot be made: {error.strerror}", where=folder, remedy="choose another folder"
        ) from None


def load_partition(folder: str | Path, dataset: Dataset | None = None) -> Partition:
    """Read and check what `save_partition` wrote; with `dataset`, check that it belongs to it.

    Raises PartitionError when the file is missing, too large or malformed, a row lies outside the
    data set, a train row has two owners or is a test row as well, a name is illegal or comes
    twice, or images and classes are not the data set's.
    """
    path = Path(folder) / "partition.json"
    plain = _read_json(path)
    try:
        partition = _partition(plain)
    except PartitionError as error:
        raise PartitionError(error.what, where=path, remedy=error.remedy or _REMEDY) from None
    if dataset is not None and (
        plain["images"] != len(dataset) or plain["classes"] != list(dataset.class_names)
    ):
        raise PartitionError(
            f"it was made for another data set ({plain['images']} {dataset.unit}, "
            f"{len(plain['classes'])} classes)",
            where=path,
            remedy="give that data set, or make the partition again",
        )
    return partition


def _plain(partition: Partition, dataset: Dataset) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "spec": partition.spec,
        "images": len(dataset),
        "classes": list(dataset.class_names),
        "clients": [
            {
                "name": client.name,
                "group": int(client.group),
                "style": client.style,
                "train": client.train.tolist(),
                "test": client.test.tolist(),
            }
            for client in partition.clients
        ],
        "unseen": sorted(partition.unseen),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_limited(path, _LARGEST_BYTES, "give the folder that holds partition.json")
    except ForestError as error:
        raise PartitionError(error.what, where=error.where, remedy=error.remedy) from None
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError):
        raise PartitionError("is not JSON", where=path, remedy=_REMEDY) from None
    if not isinstance(plain, dict):
        raise PartitionError("is not a partition", where=path, remedy=_REMEDY)
    return plain


def _partition(plain: dict[str, Any]) -> Partition:
    _require(plain.get("format") == _FORMAT, f"format is not {_FORMAT}")
    images = _integer(plain.get("images"), 1, _MOST_IMAGES, "images")
    _require(_are_texts(plain.get("classes")), "classes is not a list of names")
    spec, listed, unseen = plain.get("spec"), plain.get("clients"), plain.get("unseen")
    _require(isinstance(spec, str) and len(spec) <= 1000, "spec is not a short text")
    _require(isinstance(listed, list) and bool(listed), "clients is not a list")
    assert isinstance(spec, str) and isinstance(listed, list)
    clients = tuple(_client(each, images) for each in listed)
    names = {client.name for client in clients}
    _require(len(names) == len(clients), "a client comes twice")
    _require(_are_texts(unseen) and set(unseen or ()) < names, "unseen names an unknown client")
    _refuse_shared_rows(clients)
    return Partition(spec, clients, frozenset(unseen or ()))


def _client(plain: Any, images: int) -> ClientRows:
    _require(isinstance(plain, dict), "a client is no object")
    name, style = plain.get("name"), plain.get("style")
    _require(isinstance(name, str) and isinstance(style, str), "a client has no name or style")
    check_client_name(name)
    return ClientRows(
        name,
        _rows(plain.get("train"), images, f"train of {name}"),
        _rows(plain.get("test"), images, f"test of {name}"),
        _integer(plain.get("group"), -1, _MOST_GROUPS, f"group of {name}"),
        check_style(style),
    )


def _rows(plain: Any, images: int, what: str) -> NDArray[np.int64]:
    _require(isinstance(plain, list) and 0 < len(plain) <= images, f"{what} is not a list of rows")
    _require(all(type(row) is int and 0 <= row < images for row in plain), f"{what} has a bad row")
    rows = np.array(plain, dtype=np.int64)
    _require(len(np.unique(rows)) == len(rows), f"{what} has a row twice")
    return rows


def _refuse_shared_rows(clients: tuple[ClientRows, ...]) -> None:
    train = np.concatenate([client.train for client in clients])
    _require(len(np.unique(train)) == len(train), "a train row has two owners")
    test = np.concatenate([client.test for client in clients])
    _require(not np.isin(test, train).any(), "a test row is a train row as well")


def _integer(value: Any, low: int, high: int, what: str) -> int:
    _require(type(value) is int and low <= value <= high, f"{what} is not in [{low}, {high}]")
    assert isinstance(value, int)
    return value


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PartitionError(otherwise)

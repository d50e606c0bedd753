from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from silva.data import parquet
from silva.data.open import open_dataset
from silva.errors import DataError


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def columns(count: int = 4) -> dict[str, Any]:
    return {
        "image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)],
        "label": [i % 2 for i in range(count)],
        "client": [f"c{i // 2}" for i in range(count)],
        "score": [0.5] * count,
    }


def save(path: Path, values: dict[str, Any], names: tuple[str, ...] = ()) -> Path:
    table = pa.table(values)
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def test_as_the_hub_has_it(tmp_path: Path) -> None:
    save(tmp_path / "data" / "train-00000-of-00001.parquet", columns(4), ("ant", "bee"))
    save(tmp_path / "data" / "test-00000-of-00001.parquet", columns(2), ("ant", "bee"))
    found = open_dataset(str(tmp_path))
    assert found.class_names == ("ant", "bee")
    assert found.split is not None
    assert sorted(found.split.tolist()) == [0, 0, 0, 0, 1, 1]
    assert found.columns.keys() == {"client"}
    assert found.names["client"] == ("c0", "c1")
    first_train = int(np.flatnonzero(found.split == 0)[3])
    assert found.source.load(np.array([first_train]), 4)[0, 0, 0].tolist() == [3, 0, 0]


def test_one_file_with_binary_images_and_words(tmp_path: Path) -> None:
    values = {
        "picture": [png(i) for i in range(3)],
        "kind": pa.array(["b", "a", "b"]).dictionary_encode(),
        "side": ["train", "test", "train"],
    }
    path = save(tmp_path / "all.parquet", values)
    found = open_dataset(str(path), labels="kind", split="side")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.class_names == ("a", "b")
    assert found.split is not None
    assert found.split.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": [{"bytes": None, "path": "/etc/passwd"}] * 4}, "no column of image|no bytes"),
        ({"image": [{"bytes": png(0)}, None, None, None]}, "image 1: holds no bytes"),
        ({"image": ["a.png"] * 4}, "no column of image files"),
        ({"label": [0, 1, None, 1]}, "empty values"),
        ({"label": [0, 1, -1, 1]}, "negative"),
        ({"label": [0.5] * 4}, "no label column"),
        ({"other": [b"x"] * 4, "image": None, "more": [b"x"] * 4}, "several image columns"),
    ],
)
def test_bad_columns(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    values = {name: value for name, value in {**columns(), **change}.items() if value is not None}
    with pytest.raises(DataError, match=reason) as caught:
        open_dataset(str(save(tmp_path / "x.parquet", values)))
    assert "\n" not in str(caught.value)


def test_a_label_column_of_floats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither integers nor words"):
        open_dataset(str(save(tmp_path / "x.parquet", columns())), labels="score")


def test_empty_truncated_and_unequal_files(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", columns())
    text = path.read_bytes()
    path.write_bytes(text[: len(text) // 2])
    with pytest.raises(DataError, match="damaged parquet"):
        open_dataset(str(path))
    empty = pa.table(columns()).slice(0, 0)
    pq.write_table(empty, path)
    with pytest.raises(DataError, match="no images in it"):
        open_dataset(str(path))
    save(path, columns())
    save(tmp_path / "y.parquet", {**columns(), "more": [1] * 4})
    with pytest.raises(DataError, match="different columns"):
        open_dataset(str(tmp_path))


def test_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.parquet", columns())
    monkeypatch.setattr(parquet, "MAX_BYTES", 300)
    with pytest.raises(DataError, match="more than 300 bytes"):
        open_dataset(str(path))


def test_a_corrupt_image_is_named_when_loaded(tmp_path: Path) -> None:
    values = columns()
    values["image"][2] = {"bytes": b"no image", "path": "2.png"}
    found = open_dataset(str(save(tmp_path / "x.parquet", values)))
    with pytest.raises(DataError, match=r"x\.parquet: image 2: not a readable image"):
        found.source.load(np.arange(4), 4)

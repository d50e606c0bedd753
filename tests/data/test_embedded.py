from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from silva.data import embedded
from silva.data.open import open_dataset
from silva.errors import DataError


@pytest.mark.parametrize("name", embedded.NAMES)
def test_the_embedded_set(name: str) -> None:
    found = open_dataset(name)
    assert found.split is not None
    counts = np.zeros((10, 2), dtype=int)
    np.add.at(counts, (found.labels, found.split), 1)
    assert (counts == (400, 100)).all()
    assert found.class_names[9] == "Ankle boot"
    families = {
        found.class_names[label]: found.names["coarse"][coarse]
        for label, coarse in zip(found.labels, found.columns["coarse"], strict=True)
    }
    assert families["Sandal"] == families["Sneaker"] == families["Ankle boot"] == "footwear"
    images = found.source.load(np.array([0, 4999]), 32)
    assert images.shape == (2, 32, 32, 3)
    assert images.max() > 0


def test_small_enough_and_licensed() -> None:
    assert embedded.FILE.stat().st_size < 6 * 2**20
    assert "Zalando" in (embedded.FILE.parent / "LICENSE").read_text()
    assert embedded.DIGEST in (embedded.FILE.parent / "README.md").read_text()


def test_a_flipped_byte_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(embedded.FILE.read_bytes())
    data[1000] ^= 1
    (tmp_path / "fashion.npz").write_bytes(data)
    monkeypatch.setattr(embedded, "FILE", tmp_path / "fashion.npz")
    with pytest.raises(DataError, match="embedded data are damaged"):
        open_dataset("embedded")

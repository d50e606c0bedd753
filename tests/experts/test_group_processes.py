"""Ranks of a group are killed and replaced while the others generate."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from group_cases import generate, save_random
from programs import printed

from silva.experts import futex
from silva.models.deepseek_loader import load_deepseek

PROGRAM = Path(__file__).with_name("group_process.py")


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
@pytest.mark.parametrize("victims", [(0,), (0, 3)], ids=["the one that leads", "too many"])
def test_what_is_lost_with_ranks_comes_back(victims: tuple[int, ...], tmp_path: Path) -> None:
    model, folder = save_random(tmp_path / "model"), tmp_path / "run"
    folder.mkdir()
    before = sorted(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else []
    found = json.loads(printed([str(PROGRAM), str(model), str(folder), *map(str, victims)]))
    alone = load_deepseek(model)
    for rank, answer in found["done"].items():
        # Seeds of this model have no ties among the first tokens.
        assert answer["tokens"] == generate(alone, [int(rank) + 1, 7], len(answer["tokens"]))[0]
    tables = [np.array(end["tables"]) for end in found["ends"].values()]
    for end, table in zip(found["ends"].values(), tables, strict=True):
        assert end["alive"] == [0, 1, 2, 3]
        assert (table == tables[0]).all()
    # No expert is lost, and all that are new have some.
    assert all(set(range(16)) <= set(layer.ravel()) for layer in tables[0])
    assert (tables[0] >= 0).any(axis=(0, 2)).all()
    assert sorted(Path("/dev/shm").iterdir() if before else []) == before

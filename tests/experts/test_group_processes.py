"""A rank of a group is killed and replaced while the others generate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from group_cases import generate, save_random

from silva.experts import futex
from silva.models.deepseek_loader import load_deepseek

PROGRAM = Path(__file__).with_name("group_process.py")


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_the_rank_that_leads_is_killed_and_another_process_takes_its_place(tmp_path: Path) -> None:
    model, folder = save_random(tmp_path / "model"), tmp_path / "run"
    folder.mkdir()
    before = sorted(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else []
    program = [sys.executable, str(PROGRAM), str(model), str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    alone = load_deepseek(model)
    for rank, answer in found["done"].items():
        # Seeds of this model have no ties among the first tokens.
        assert answer["tokens"] == generate(alone, [int(rank) + 1, 7], len(answer["tokens"]))[0]
    tables = [np.array(end["tables"]) for end in found["ends"].values()]
    for end, table in zip(found["ends"].values(), tables, strict=True):
        assert end["alive"] == [0, 1, 2, 3]
        assert (table == tables[0]).all()
    # No expert is lost, and the newcomer has some again.
    assert all(set(range(16)) <= set(layer.ravel()) for layer in tables[0])
    assert (tables[0][:, 0] >= 0).any()
    assert sorted(Path("/dev/shm").iterdir() if before else []) == before

"""Ranks of a group are killed and replaced while the others generate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from group_cases import generate, save_random

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


def printed(program: list[str], limit_s: float = 600.0) -> str:
    """The last line of a Python program that has to end well; none of its processes is left."""
    command = [sys.executable, *program]
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **kept) as process:
        try:
            said, errors = process.communicate(timeout=limit_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    return said.splitlines()[-1]

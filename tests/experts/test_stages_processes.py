"""A model whose steps are shared by processes, over shared memory and over torch.distributed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from group_cases import save_random
from programs import printed

from silva.experts import futex

PROGRAM = Path(__file__).with_name("stages_process.py")


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_both_trades_agree_and_a_killed_rank_is_done_without_and_replaced(tmp_path: Path) -> None:
    model, folder = save_random(tmp_path / "model"), tmp_path / "run"
    folder.mkdir()
    found = json.loads(printed([str(PROGRAM), str(model), str(folder)]))
    for twin, shared in found["sent"]:
        assert twin == shared
    # 14 tokens, to three others, in each of three layers, 20 + 24 values of four bytes.
    assert sum(shared["LATENTS"] for _, shared in found["sent"]) == 14 * 3 * 3 * 44 * 4
    assert [left["alive"] for left in found["left"]] == [[0, 1, 2]] * 3
    assert all(left["repeated"] for left in found["left"])
    assert found["ends"] == [[0, 1, 2, 3]] * 4
    assert found["codes"] == [-9, 0, 0, 0, 0]

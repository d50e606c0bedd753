from __future__ import annotations

import pytest

from silva.pretraining.config import PretrainConfig, Stage

RECIPE = PretrainConfig(stages=(Stage(16, 2), Stage(24, 1), Stage(32, 3)))


@pytest.mark.parametrize(("epoch", "side"), [(0, 16), (1, 16), (2, 24), (3, 32), (5, 32), (6, 32)])
def test_stage_of_an_epoch(epoch: int, side: int) -> None:
    assert RECIPE.epochs == 6
    assert RECIPE.stage(epoch).side == side

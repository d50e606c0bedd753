from __future__ import annotations

from pathlib import Path

import pytest
import torch

from silva.config import build
from silva.errors import ConfigError
from silva.federation.device import usable_device
from silva.federation.tune import TuneConfig, tune


def test_the_cpu_is_always_usable() -> None:
    assert usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "meta", "abacus", ""])
def test_an_unusable_device_is_named_with_what_is_usable(name: str) -> None:
    with pytest.raises(ConfigError, match=r"device: torch cannot compute on .*usable here: cpu"):
        usable_device(name)


def test_a_run_on_an_unusable_device_writes_nothing(tmp_path: Path) -> None:
    config = build(TuneConfig, {"device": "cuda:99", "data": {"path": "embedded"}})
    with pytest.raises(ConfigError):
        tune(config, tmp_path / "forest")
    assert list(tmp_path.iterdir()) == []

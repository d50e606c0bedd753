from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from calls import World, done

from silva.adapters.forest import Forest
from silva.cli import demo
from silva.config import build
from silva.data.embedded import NAMES


def test_the_demo_runs_from_nothing_and_says_what_comes_next(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {
        "clients": 6,
        "samples_per_client": 10,
        "test_per_client": 5,
        "partition": "planted(2)",
    }
    monkeypatch.setitem(demo.SETTINGS, "backbone", str(world.vit))
    monkeypatch.setitem(demo.SETTINGS, "data", {**demo.SETTINGS["data"], **small})
    monkeypatch.setitem(demo.SETTINGS, "federation", tiny.SETTINGS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-forest.run").mkdir()
    printed = done("demo", "--seed", 5)
    forest = Forest.load("demo-forest-2")
    assert len(forest.clients) == 6
    assert "root + cluster + leaf" in printed
    picture = Path("demo-forest-2/report/overview.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"picture {picture}" in printed
    named = printed.rsplit("--client ", 1)[1].split()[0]
    assert forest.client(named).seen


def test_the_demo_needs_no_download() -> None:
    from silva.api import TuneConfig
    from silva.models.kinds import SHIPPED

    config = build(TuneConfig, demo.SETTINGS, "demo")
    assert config.backbone in SHIPPED
    assert config.data.path in NAMES


def test_a_free_name_passes_over_forests_and_unfinished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, taken in (("x", "x"), ("x-2", "x-2.run"), ("x-3", "x-3"), ("x-4", "")):
        assert demo._free("x") == Path(name)
        if taken:
            Path(taken).mkdir()

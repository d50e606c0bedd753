"""What `Forest.create` refuses, and where it builds."""

from __future__ import annotations

from pathlib import Path

import pytest
from forest_cases import ADAPTER, BASE, CLASSES, full_change, make_forest, tier

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.manifest import BaseModel, Manifest
from silva.adapters.tiers import Tier
from silva.errors import ForestError


@pytest.mark.parametrize(
    ("base", "classes"),
    [
        (BaseModel("x" * 257, BASE.digest), CLASSES),
        (BaseModel("tiny", "no digest"), CLASSES),
        (BASE, ("ant", "bee", "bee")),
    ],
)
def test_a_forest_that_could_not_be_read_again_never_takes_its_place(
    tmp_path: Path, base: BaseModel, classes: tuple[str, ...]
) -> None:
    with pytest.raises(ForestError):
        Forest.create(tmp_path / "f", base, ADAPTER, classes, full_change())
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_of_a_new_forest_are_read_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "to_bytes", lambda manifest: b"{}")
    with pytest.raises(ForestError):
        make_forest(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_forest_is_built_in_the_folder_that_was_named_for_it(tmp_path: Path) -> None:
    scratch, seen = tmp_path / "run", []
    scratch.mkdir()

    def leaf() -> Tier:
        seen.append(([p.name for p in tmp_path.iterdir()], len(list(scratch.iterdir()))))
        return tier("leaf", 2)

    change = Change(root=tier("root", 1), clients={"c-0": NewClient(leaf=leaf)})
    forest = Forest.create(tmp_path / "f", BASE, ADAPTER, CLASSES, change, scratch=scratch)
    assert seen == [(["run"], 1)] and list(scratch.iterdir()) == []
    assert forest.verify().sound

"""One grown forest for all tests of the command line; whoever changes it works on a copy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import calls
from PIL import Image


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> calls.World:
    """The tiny federation and its forest, grown once by `silva tune`."""
    return calls.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def forest(world: calls.World, tmp_path: Path) -> Path:
    """A copy of the grown forest, to be changed."""
    return Path(shutil.copytree(world.forest, tmp_path / "forest"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image file of another size than the model's."""
    Image.new("RGB", (20, 12), (200, 30, 90)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"

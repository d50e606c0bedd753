"""Let the tests of this folder share the tiny federation: importlib mode leaves the path alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "federation")]


@pytest.fixture(scope="session")
def trained(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260k; where that is not, a random model instead, so that the scenes are played anyhow."""
    from serving_world import save_model

    folder = repository.parent / "shared" / "data" / "stories260k"
    if folder.is_dir():
        return folder
    return save_model(tmp_path_factory.mktemp("trained"), context=512)

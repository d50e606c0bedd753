"""The tables of docs/planning.md are what the model computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_the_tables_of_planning_are_up_to_date(repository: Path) -> None:
    path = repository / "docs" / "predictions.py"
    spec = importlib.util.spec_from_file_location("docs_predictions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (repository / "docs" / "planning.md").read_text()
    assert module.rewritten(page) == page, "run `python docs/predictions.py`"

"""A version as the page draws it: clusters by number, and figures of every client."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from forest_cases import make_forest, signature, tier

from silva.adapters.change import Change, NewClient, NewCluster
from silva.serving.forest_outline import outline


def test_clusters_stand_by_number_and_clients_of_the_root_apart(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "forest")
    clusters = {f"cluster-{n}": NewCluster(tier("cluster", n), signature(n)) for n in (10, 9)}
    far = NewClient(leaf=tier("leaf", 5), images=3, accuracy={"root": 0.5, "leaf": 0.25})
    grown = forest.commit(Change(clusters=clusters, clients={"far": far}))
    found = outline(grown.manifest)
    assert [each["name"] for each in found["clusters"]] == [f"cluster-{n}" for n in (0, 1, 9, 10)]
    assert (found["version"], found["parent"], found["classes"]) == (2, 1, 3)
    assert (found["base"], found["figure"]) == ("tiny", "accuracy")
    (alone,) = found["clients"]
    assert (alone["name"], alone["leaf"], alone["images"]) == ("far", True, 3)
    assert alone["accuracy"] == {"root": 0.5, "leaf": 0.25}
    assert [one["name"] for one in found["clusters"][0]["clients"]] == ["c-00", "c-02"]


def test_a_forest_without_classes_is_judged_by_perplexity(tmp_path: Path) -> None:
    manifest = replace(make_forest(tmp_path / "forest").manifest, classes=None)
    found = outline(manifest)
    assert (found["classes"], found["figure"]) == (None, "perplexity")

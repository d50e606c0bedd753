"""What others commit between a look at the forest and the commit is neither lost nor overwritten."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from forest_cases import files_of, make_forest, tier

from silva.adapters import maintenance
from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.joining import add_leaf, join, still_new
from silva.adapters.probe_file import Probed
from silva.errors import ForestError


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "forest")


def try_to_join(forest: Forest, images: int) -> bool:
    """Whether this one became the client of the name that all want."""
    near = Probed(forest.signature("cluster-0"), images)
    try:
        join(forest, "wanted", near)
    except ForestError as error:
        assert "someone else committed" in str(error)
        return False
    return True


def test_of_many_threads_that_want_a_name_one_gets_it(forest: Forest) -> None:
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda n: try_to_join(forest, n), range(6)))
    assert got.count(True) == 1
    kept = Forest.load(forest.folder)
    assert kept.client("wanted").images == got.index(True) and kept.version == 2


def join_elsewhere(forest: Forest, images: int) -> None:
    """Ends with exit code 0 where this process got the name, else 3."""
    raise SystemExit(0 if try_to_join(forest, images) else 3)


def test_of_two_processes_that_want_a_name_one_gets_it(forest: Forest) -> None:
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=join_elsewhere, args=(forest, n)) for n in (1, 2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert sorted(racer.exitcode or 0 for racer in racers) == [0, 3]
    assert Forest.load(forest.folder).version == 2


def test_others_who_join_meanwhile_are_no_reason_to_refuse(forest: Forest) -> None:
    for name in ("new-1", "new-2"):
        join(forest, name, Probed(forest.signature("cluster-1"), 9))
    assert {"new-1", "new-2"} <= set(Forest.load(forest.folder).clients)


def test_clusters_that_changed_meanwhile_are(forest: Forest) -> None:
    forest.commit(Change(root=tier("root", 77)))
    with pytest.raises(ForestError, match="another root or other clusters"):
        join(forest, "new", Probed(forest.signature("cluster-1"), 9))
    new = Change(clients={"new": NewClient(cluster="cluster-0")})
    with pytest.raises(ForestError, match="another root or other clusters"):
        forest.commit(new, check=still_new(forest, "new"))


def test_a_leaf_comes_to_the_client_as_it_was(forest: Forest) -> None:
    joined = join(forest, "new", Probed(forest.signature("cluster-1"), 9)).forest
    join(forest, "other", Probed(forest.signature("cluster-0"), 9))
    maintenance.remove(forest.folder, "c-01")  # and with it every version so far
    leaf = tier("leaf", 41)
    grown = add_leaf(joined, "new", leaf, 20)
    entry = grown.client("new")
    assert (entry.cluster, entry.images, entry.seen) == ("cluster-1", 20, False)
    path = Forest.load(forest.folder).path("new")
    assert [t.name for t in path.tiers] == ["root", "cluster", "leaf"]
    assert all(torch.equal(p.B, leaf.pairs[m].B) for m, p in path.tiers[-1].pairs.items())
    with pytest.raises(ForestError, match="not there any more"):
        add_leaf(joined, "new", leaf, 20)
    with pytest.raises(ForestError, match="not there any more"):
        add_leaf(grown, "new", leaf, 20)


@pytest.mark.parametrize("again", [False, True])
def test_a_client_that_was_erased_gets_no_leaf(forest: Forest, again: bool) -> None:
    probed = Probed(forest.signature("cluster-1"), 9)
    joined = join(forest, "new", probed).forest
    maintenance.remove(forest.folder, "new")
    if again:
        join(Forest.load(forest.folder), "new", probed)
    before = files_of(forest.folder)
    with pytest.raises(ForestError, match="not there any more"):
        add_leaf(joined, "new", tier("leaf", 41), 20)
    assert files_of(forest.folder) == before

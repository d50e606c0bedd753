"""A client joins by its probe: where it is put, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forest_cases import ADAPTER, BASE, CLASSES, MODULES, draw, files_of, make_forest, tier
from hypothesis import given
from hypothesis import strategies as st

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.joining import join
from silva.adapters.probe_file import Probed, decode_probed, encode_probed
from silva.errors import ForestError


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "forest")


def like(forest: Forest, cluster: str, noise: float = 0.05) -> Probed:
    """A probe near a cluster's signature."""
    generator = torch.Generator().manual_seed(3)
    near = {
        m: b + noise * torch.randn(b.shape, generator=generator)
        for m, b in forest.signature(cluster).items()
    }
    return Probed(near, 20)


@pytest.mark.parametrize("cluster", ["cluster-0", "cluster-1"])
def test_a_probe_that_is_sent_leads_to_the_cluster_it_is_like(forest: Forest, cluster: str) -> None:
    sent = encode_probed(like(forest, cluster), forest.manifest)
    joined = join(forest, "new", decode_probed(sent, forest.manifest, "sent"))
    assert joined.cluster == cluster and joined.similarities[cluster] > 0.9
    assert joined.similarities[cluster] == max(joined.similarities.values())
    entry = Forest.load(forest.folder).client("new")
    assert (entry.cluster, entry.leaf, entry.seen, entry.images) == (cluster, None, False, 20)
    assert [t.name for t in joined.forest.path("new").tiers] == ["root", "cluster"]


def test_what_does_not_fit_is_refused_and_changes_nothing(forest: Forest, tmp_path: Path) -> None:
    before, good = files_of(forest.folder), like(forest, "cluster-0")
    with pytest.raises(ForestError, match="there already"):
        join(forest, "c-00", good)
    with pytest.raises(ForestError, match="not allowed"):
        join(forest, "../new", good)
    short = Probed({m: good.factors[m] for m in MODULES[:1]}, 1)
    wide = Probed({m: torch.randn(7, 3) for m in MODULES}, 1)
    for wrong in (short, wide):
        with pytest.raises(ForestError, match="does not fit"):
            join(forest, "new", wrong)
    assert files_of(forest.folder) == before
    alone = Forest.create(tmp_path / "alone", BASE, ADAPTER, CLASSES, Change(root=tier("root", 1)))
    with pytest.raises(ForestError, match="no clusters"):
        join(alone, "new", good)


def test_who_joined_meanwhile_is_not_overwritten(forest: Forest) -> None:
    forest.commit(Change(clients={"new": NewClient(tier("leaf", 40), "cluster-1", images=500)}))
    with pytest.raises(ForestError, match="someone else committed"):
        join(forest, "new", like(forest, "cluster-0"))
    kept = Forest.load(forest.folder).client("new")
    assert (kept.cluster, kept.images) == ("cluster-1", 500) and kept.leaf is not None


def test_a_probe_without_a_direction_is_refused(forest: Forest) -> None:
    nothing = Probed({m: torch.zeros(7, 2) for m in MODULES}, 1)
    with pytest.raises(ForestError, match="no direction"):
        join(forest, "new", nothing)


def test_a_probe_of_another_forest_is_refused(forest: Forest) -> None:
    sent = encode_probed(like(forest, "cluster-0"), forest.manifest)
    other = forest.commit(Change(probe=draw(9)))
    with pytest.raises(ForestError, match="another forest"):
        decode_probed(sent, other.manifest, "sent")


def test_another_file_is_no_probe(forest: Forest) -> None:
    leaf = forest.client("c-01").leaf
    assert leaf is not None
    with pytest.raises(ForestError, match="no client's probe"):
        decode_probed((forest.folder / "objects" / leaf).read_bytes(), forest.manifest, "sent")
    bad = {m: b.clone() for m, b in forest.signature("cluster-0").items()}
    bad[MODULES[0]][0, 0] = float("nan")
    with pytest.raises(ForestError, match="NaN"):
        encode_probed(Probed(bad, 1), forest.manifest)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return make_forest(tmp_path_factory.mktemp("shared") / "forest")


@given(data=st.binary(max_size=200))
def test_any_bytes_are_no_probe(shared: Forest, data: bytes) -> None:
    with pytest.raises(ForestError):
        decode_probed(data, shared.manifest, "sent")


@given(place=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_flipped_byte_is_another_probe_or_a_forest_error(
    shared: Forest, place: int, value: int
) -> None:
    data = bytearray(encode_probed(like(shared, "cluster-0"), shared.manifest))
    data[place % len(data)] = value
    try:
        found = decode_probed(bytes(data), shared.manifest, "sent")
    except ForestError:
        return
    assert all(bool(torch.isfinite(t).all()) for t in found.factors.values())

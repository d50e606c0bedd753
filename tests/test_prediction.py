from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "federation"))
import tiny

from silva import prediction
from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.manifest import BaseModel
from silva.adapters.routing import signature
from silva.adapters.tiers import Tier, TierName
from silva.api import Forest
from silva.errors import DataError, ForestError, ModelError, UnknownClientError
from silva.models.adapted import adaptation_of
from silva.models.registry import load_backbone


def tier(name: TierName, seed: int) -> Tier:
    return Tier(name, tiny.random_pairs(seed), tiny.random_head(seed), 2.0)


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    """Random tiers over the tiny backbone: clients c-0 with a leaf, c-1 without."""
    base = load_backbone(str(tiny.save_backbone(tmp_path / "vit")))
    cluster = tier("cluster", 2)
    change = Change(
        root=tier("root", 1),
        probe={name: pair.A for name, pair in tiny.random_pairs(9).items()},
        clusters={
            "cluster-0": NewCluster(cluster, signature({n: p.B for n, p in cluster.pairs.items()}))
        },
        clients={
            "c-0": NewClient(leaf=tier("leaf", 3), cluster="cluster-0", seen=True),
            "c-1": NewClient(leaf=None, cluster="cluster-0", seen=False),
        },
    )
    adapter = {"rank": 2, "alpha": 4.0, "targets": ["q_proj", "v_proj"]}
    Forest.create(
        tmp_path / "forest", BaseModel(base.id, base.digest), adapter, tiny.CLASSES, change
    )
    return Forest.load(tmp_path / "forest")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = []
    for number, pixels in enumerate(tiny.arrays()["images"][::47]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@torch.no_grad()
def expected(forest: Forest, client: str, images: list[Path]) -> torch.Tensor:
    base, path = load_backbone(forest.base.id), forest.path(client)
    pixels = base.pixels(np.stack([np.asarray(Image.open(image)) for image in images]))
    head = (path.head.weight, path.head.bias)
    plain = adaptation_of(path, base.model, merged=False)
    return base.model(pixels, head, plain).softmax(dim=1)


@pytest.mark.parametrize("client", ["c-0", "c-1", "cluster-0", "root"])
def test_probabilities_are_those_of_the_whole_path(
    forest: Forest, images: list[Path], client: str
) -> None:
    answers = forest.predict(client, images, top=4)
    assert [answer.image for answer in answers] == [str(image) for image in images]
    for answer, row in zip(answers, expected(forest, client, images), strict=True):
        found = dict(zip(answer.classes, answer.probabilities, strict=True))
        for name, chance in zip(forest.class_names, row.tolist(), strict=True):
            assert found[name] == pytest.approx(chance, abs=1e-5)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)


def test_paths_may_be_text_and_top_may_exceed_the_classes(
    forest: Forest, images: list[Path]
) -> None:
    texts = [str(image) for image in images]
    assert forest.predict("c-0", texts, top=99) == forest.predict("c-0", images, top=4)
    assert len(forest.predict("c-0", texts[:1], top=1)[0].classes) == 1


def test_images_are_taken_a_batch_at_a_time(
    forest: Forest, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = forest.predict("c-0", images)
    monkeypatch.setattr(prediction, "BATCH", 3)
    parts = forest.predict("c-0", images)
    assert [answer.classes for answer in parts] == [answer.classes for answer in whole]
    assert forest.predict("c-0", []) == []


def test_an_unknown_client_gets_the_root_only_on_request(
    forest: Forest, images: list[Path]
) -> None:
    with pytest.raises(UnknownClientError, match="c-0"):
        forest.predict("c-9", images)
    assert forest.predict("c-9", images, unknown_client="root") == forest.predict("root", images)


def test_another_backbone_is_refused_and_a_moved_one_found(
    forest: Forest, images: list[Path], tmp_path: Path
) -> None:
    other = tiny.save_backbone(tmp_path / "other", seed=4)
    with pytest.raises(ForestError, match="other weights"):
        forest.predict("c-0", images, backbone=str(other))
    before = forest.predict("c-0", images)
    shutil.move(forest.base.id, tmp_path / "moved")
    with pytest.raises(ModelError, match="no backbone"):
        forest.predict("c-0", images)
    assert forest.predict("c-0", images, backbone=str(tmp_path / "moved")) == before


def test_one_bad_image_is_named_and_no_answer_given(forest: Forest, images: list[Path]) -> None:
    images[1].write_bytes(images[1].read_bytes()[:60])
    with pytest.raises(DataError, match=r"1\.png: not a readable image"):
        forest.predict("c-0", images)

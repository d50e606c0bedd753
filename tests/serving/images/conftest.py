"""Stages of the tests of images that are served."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "api"))
sys.path.insert(0, str(Path(__file__).parents[2] / "federation"))
import tiny
from api_transport import Api
from image_forest import grow
from image_world import World

from silva.config import build
from silva.federation.sent import ImageProber, ImageTuner
from silva.models.backbone import Backbone
from silva.models.registry import load_backbone
from silva.serving.api.image_app import create_image_app
from silva.serving.backend import ModelCard
from silva.serving.config import ServeConfig
from silva.serving.images.launch import make_classifier, newcomers
from silva.serving.images.service import ImageService
from silva.serving.live_forest import LiveForest


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(str(tiny.save_backbone(tmp_path_factory.mktemp("vit"))))


@pytest.fixture
def world(tmp_path: Path, backbone: Backbone) -> Iterator[World]:
    forest = grow(tmp_path / "forest", backbone)
    pictures = []
    for n in range(4):
        noise = np.random.default_rng(n).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        pictures.append(tmp_path / f"{n}.png")
        Image.fromarray(noise).save(pictures[-1])
    live = LiveForest(forest, ModelCard("vit", 0, 0), backbone.digest)
    classifier = make_classifier(backbone, build(ServeConfig, {}, "test"), forest)
    service = ImageService(classifier, live.cards, most_waiting=40)
    base = backbone.class_names
    joining = newcomers(live, service, ImageProber(backbone), ImageTuner(backbone.id))
    app = create_image_app(service, forest.class_names, base, forest=live, newcomers=joining)
    api = Api(app)
    api._runner.run(service.open())
    yield World(forest, backbone, live, service, joining, api, pictures)
    api._runner.run(joining.tunings.close())
    api._runner.run(service.close(0.0))

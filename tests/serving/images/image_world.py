"""A tiny ViT, a forest of random adapters on it, and a service that answers for its clients."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from api_transport import Api

from silva.adapters.forest import Forest
from silva.models.backbone import Backbone
from silva.prediction import predict
from silva.serving.images.service import ImageService
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import Newcomers


@dataclass
class World:
    """A service over a forest, its API, and pictures as files."""

    forest: Forest
    backbone: Backbone
    live: LiveForest
    service: ImageService
    newcomers: Newcomers
    api: Api
    pictures: list[Path]

    def said(self, client: str, picture: int) -> dict[str, float]:
        """Class -> probability, by the other way there is."""
        [found] = predict(self.forest, client, [self.pictures[picture]], 99, "error", "")
        return dict(zip(found.classes, found.probabilities, strict=True))

    def asked(self, client: str, *pictures: int, **more: Any) -> Any:
        images = [encoded(self.pictures[n]) for n in pictures]
        name = f"vit@{client}" if client else "vit"
        body = {"model": name, "images": images, "top_k": 4, **more}
        return self.api.post("/v1/classify", json=body)


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def close(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert found.keys() == wanted.keys()
    for label, chance in wanted.items():
        assert found[label] == pytest.approx(chance, abs=1e-5)


def told(entry: Any) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in entry["classes"]}

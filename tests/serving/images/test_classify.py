"""`/v1/classify`: pictures of many clients in one batch get what `silva predict` says for each."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from api_transport import Api
from image_world import World, close, encoded, told
from PIL import Image

from silva.adapters.probe_file import Probed, encode_probed
from silva.adapters.tiers import Head
from silva.config import build
from silva.models.backbone import Backbone
from silva.serving.api.image_app import create_image_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.api.settings import ApiSettings
from silva.serving.backend import BusyError, UnavailableError
from silva.serving.config import ServeConfig
from silva.serving.images.classifier import Classifier, Picture
from silva.serving.images.launch import make_classifier
from silva.serving.images.service import ImageService

CLIENTS = ("root", "cluster-0", "cluster-1", "c-0", "c-1", "c-2", "far")


def test_each_client_gets_what_predict_says(world: World) -> None:
    for client in CLIENTS:
        answer = world.asked(client, 0, 1, 2).json()
        assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
        for n, entry in enumerate(answer["data"]):
            close(told(entry), world.said(client, n))
            chances = [each["probability"] for each in entry["classes"]]
            assert chances == sorted(chances, reverse=True)
    assert world.said("c-0", 0) != world.said("c-1", 0)


def test_pictures_of_all_clients_run_in_one_batch(world: World) -> None:
    before = world.service.status().counters["batches"]

    async def scene() -> list[Any]:
        data = [path.read_bytes() for path in world.pictures]
        asked = [(client, n) for client in CLIENTS for n in range(4)]
        cards = {client: world.service.model(f"vit@{client}") for client in CLIENTS}
        return await asyncio.gather(
            *(world.service.classify(cards[client].path, [data[n]]) for client, n in asked)  # type: ignore[union-attr]
        )

    found = world.api._runner.run(scene())
    assert world.service.status().counters["batches"] - before < len(found) / 2
    for (client, n), [chances] in zip(
        [(client, n) for client in CLIENTS for n in range(4)], found, strict=True
    ):
        close(dict(zip(tiny.CLASSES, map(float, chances), strict=True)), world.said(client, n))


def test_the_base_answers_with_its_own_head_where_it_has_one(world: World) -> None:
    answer = world.asked("", 0)
    assert answer.status_code == 400 and "no head of its own" in answer.text
    draw = torch.Generator().manual_seed(8)
    head = Head(torch.randn(3, 16, generator=draw), torch.randn(3, generator=draw))
    picture = Picture(np.full((8, 8, 3), 99, np.uint8), ())
    [chances] = Classifier(replace(world.backbone, head=head)).answer([picture])
    pixels = world.backbone.pixels(picture.pixels[None])
    with torch.inference_mode():
        wanted = world.backbone.model(pixels, (head.weight, head.bias)).softmax(1)[0]
    np.testing.assert_allclose(chances, wanted.numpy(), atol=1e-6)


def test_a_damaged_leaf_ends_its_own_requests_alone(world: World) -> None:
    leaf = world.forest.client("c-1").leaf
    assert leaf is not None
    path = world.forest.folder / "objects" / leaf
    path.write_bytes(path.read_bytes()[:-1])

    async def scene() -> list[Any]:
        data = world.pictures[0].read_bytes()
        cards = [world.service.model(f"vit@{client}") for client in ("c-0", "c-1", "far")]
        asked = (world.service.classify(card.path, [data]) for card in cards if card)
        return await asyncio.gather(*asked, return_exceptions=True)

    good, bad, far = world.api._runner.run(scene())
    assert isinstance(bad, UnavailableError) and "cannot be read" in str(bad)
    close(dict(zip(tiny.CLASSES, map(float, good[0]), strict=True)), world.said("c-0", 0))
    close(dict(zip(tiny.CLASSES, map(float, far[0]), strict=True)), world.said("far", 0))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"images": ["no base64!"]}, 400, "not base64"),
        ({"images": [base64.b64encode(b"no image").decode()]}, 400, "not a readable image"),
        ({"images": []}, 400, "images"),
        ({"images": ["AAAA"] * 65}, 400, "images"),
        ({"images": ["AAAA"], "top_k": 0}, 400, "top_k"),
        ({"images": ["AAAA"], "strange": 1}, 400, "strange"),
        ({"images": ["AAAA"], "model": "vit@nobody"}, 404, "does not exist"),
        ({"images": ["AAAA"], "model": "vit@../c-0"}, 404, "does not exist"),
    ],
)
def test_bad_bodies_are_refused(world: World, body: dict[str, Any], status: int, said: str) -> None:
    answer = world.api.post("/v1/classify", json={"model": "vit@c-0", **body})
    assert (answer.status_code, said in answer.text) == (status, True)
    assert world.asked("c-0", 0).status_code == 200


def test_a_bomb_and_a_body_that_is_too_long_are_refused(backbone: Backbone, world: World) -> None:
    large = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(large, "PNG")
    bomb = base64.b64encode(large.getvalue()).decode()
    answer = world.api.post("/v1/classify", json={"model": "vit@c-0", "images": [bomb]})
    assert answer.status_code == 400 and "pixels" in answer.text
    small = Api(
        create_image_app(
            world.service, tiny.CLASSES, (), ApiSettings(max_body_bytes=2048), forest=world.live
        )
    )
    body = {"model": "vit@c-0", "images": ["A" * 4096]}
    assert small.post("/v1/classify", json=body).status_code == 413


def test_more_images_than_may_wait_are_told_to_come_again(world: World) -> None:
    assert world.asked("c-0", *[0] * 40).status_code == 200
    answer = world.asked("c-0", *[0] * 41)  # never: that is the client's mistake
    assert answer.status_code == 400 and "41 images, but 40 may wait" in answer.text

    async def many() -> list[Any]:
        card, data = world.service.model("vit@c-0"), world.pictures[0].read_bytes()
        assert card is not None
        asked = (world.service.classify(card.path, [data] * 30) for _ in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    found = world.api._runner.run(many())
    assert [isinstance(each, BusyError) for each in found] == [False, True, True]


def test_a_bound_key_opens_its_own_client_alone(world: World, backbone: Backbone) -> None:
    key = replace(parse_key("one=secret-of-one", "test"), model="vit@c-0")
    classifier = make_classifier(backbone, build(ServeConfig, {}, "test"), world.forest)
    service = ImageService(classifier, world.live.cards, most_waiting=40)
    api = Api(create_image_app(service, tiny.CLASSES, (), keys=KeyRing([key])))
    api._runner.run(service.open())
    headers = {"authorization": "Bearer secret-of-one"}
    for client in ("c-0", "c-1", "root", "far", "nobody"):
        body = {"model": f"vit@{client}", "images": [encoded(world.pictures[0])]}
        status = api.post("/v1/classify", json=body, headers=headers).status_code
        assert status == (200 if client == "c-0" else 404)
    assert api.post("/v1/classify", json={}).status_code == 401
    api._runner.run(service.close(0.0))


def test_a_client_joins_by_its_probe_and_is_answered_by_its_cluster(world: World) -> None:
    near = world.forest.signature("cluster-1")
    probe = encode_probed(Probed(near, 20), world.forest.manifest)
    answer = world.api.post(
        "/admin/v1/forest/clients?client=new",
        content=probe,
        headers={"content-type": "application/octet-stream"},
    )
    assert answer.status_code == 200 and answer.json()["model"] == "vit@new"
    close(told(world.asked("new", 0).json()["data"][0]), world.said("cluster-1", 0))
    assert world.api.post("/admin/v1/forest", json={"version": 1}).status_code == 200
    assert world.asked("new", 0).status_code == 404


def test_what_operators_see(world: World) -> None:
    world.asked("c-0", 0, 1)
    status = world.api.get("/admin/v1/status").json()
    assert status["peers"][0]["name"] == "classifier" and status["counters"]["images"] == 2
    assert world.api.get("/ready").status_code == 200
    assert "silva_backend_images" in world.api.get("/metrics").text
    assert world.api.post("/admin/v1/scale", json={"roles": {"decode": 2}}).status_code == 409

"""`/v1/classify` with images as multipart/form-data: the answers of the same images in JSON."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import tiny
from api_transport import Api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_world import World, close, told
from PIL import Image

from silva.config import build
from silva.serving.api.image_app import create_image_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.api.schemas.classify import MAX_IMAGES
from silva.serving.api.settings import ApiSettings
from silva.serving.config import ServeConfig
from silva.serving.images.launch import make_classifier
from silva.serving.images.service import ImageService


def uploads(world: World, *pictures: int) -> list[tuple[str, Any]]:
    return [("images", (f"../{n}.png", world.pictures[n].read_bytes())) for n in pictures]


def uploaded(world: World, client: str, *pictures: int, **fields: Any) -> Any:
    data = {"model": f"vit@{client}", **fields}
    return world.api.post("/v1/classify", data=data, files=uploads(world, *pictures))


def test_uploads_get_what_base64_gets(world: World) -> None:
    for client in ("c-0", "cluster-1", "far"):
        there, here = uploaded(world, client, 0, 1, 2, top_k=4), world.asked(client, 0, 1, 2)
        assert there.status_code == 200, there.text
        there, here = there.json(), here.json()
        assert (there["model"], there["path"]) == (here["model"], here["path"])
        for n in range(3):
            close(told(there["data"][n]), told(here["data"][n]))
    assert len(uploaded(world, "c-0", 0, top_k=2).json()["data"][0]["classes"]) == 2


@pytest.mark.parametrize(
    ("fields", "files", "said"),
    [
        ({"model": ""}, 1, "model"),
        ({"model": None}, 1, "model"),
        ({}, 0, "images"),
        ({"x" * n: "y" for n in range(1, MAX_IMAGES)}, 1, "Too many fields"),
        ({"model": "m" * 5000}, 1, "Part exceeded maximum size"),
        ({}, MAX_IMAGES + 1, "Too many files"),
        ({"top_k": "0"}, 1, "top_k"),
        ({"top_k": "many"}, 1, "top_k"),
        ({"top_k": ["1", "2"]}, 1, "top_k: is there more than once"),
        ({"stream": "true"}, 1, "stream: is not a field"),
    ],
)
def test_bad_forms_are_refused(world: World, fields: dict[str, Any], files: int, said: str) -> None:
    fields = {"model": "vit@c-0", "top_k": "5", **fields}
    data = {name: value for name, value in fields.items() if value is not None}
    parts = uploads(world, *[0] * files) or [("top_k", (None, "5"))]
    if not files:
        del data["top_k"]
    answer = world.api.post("/v1/classify", data=data, files=parts)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("multipart/form-data", "Missing boundary"),
        ("multipart/form-data; boundary=other", "Invalid multipart data"),
        ("multipart/form-data; boundary=", "Invalid multipart data"),
    ],
)
def test_a_type_that_does_not_fit_its_body_is_refused(world: World, kind: str, said: str) -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nvit\r\n--b--'
    answer = world.api.post("/v1/classify", content=body, headers={"content-type": kind})
    assert (answer.status_code, said in answer.text) == (400, True), answer.text


def test_files_and_texts_are_not_taken_for_each_other(world: World) -> None:
    for data, files, said in (
        ({"model": "vit@c-0", "images": "text"}, uploads(world, 0), "images: send it as a file"),
        ({}, [("model", ("m", b"vit@c-0")), *uploads(world, 0)], "model: send it as a field"),
    ):
        answer = world.api.post("/v1/classify", data=data, files=files)
        assert (answer.status_code, said in answer.text) == (400, True), answer.text


def test_what_is_no_image_is_named_by_its_place(world: World) -> None:
    large = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(large, "PNG")
    for content, said in ((b"no image", "not a readable"), (large.getvalue(), "pixels")):
        files = [*uploads(world, 0), ("images", ("1.png", content))]
        answer = world.api.post("/v1/classify", data={"model": "vit@c-0"}, files=files)
        assert answer.status_code == 400 and said in answer.text
        assert answer.json()["error"]["param"].startswith("images.1")
    empty = [("images", ("1.png", b""))]
    answer = world.api.post("/v1/classify", data={"model": "vit@c-0"}, files=empty)
    assert answer.status_code == 400 and "images.0" in answer.text
    assert uploaded(world, "nobody", 0).status_code == 404


def test_keys_and_limits_are_those_of_json(world: World) -> None:
    key = replace(parse_key("one=secret-of-one", "test"), model="vit@c-0")
    limits = ApiSettings(max_body_bytes=4096)
    classifier = make_classifier(world.backbone, build(ServeConfig, {}, "test"), world.forest)
    service = ImageService(classifier, world.live.cards, most_waiting=40)
    api = Api(create_image_app(service, tiny.CLASSES, (), limits, keys=KeyRing([key])))
    api._runner.run(service.open())
    headers = {"authorization": "Bearer secret-of-one"}
    dot = io.BytesIO()
    Image.new("RGB", (8, 8)).save(dot, "PNG")

    def status(client: str, content: bytes, **more: Any) -> int:
        data, files = {"model": f"vit@{client}"}, [("images", ("1.png", content))]
        return api.post("/v1/classify", data=data, files=files, **more).status_code

    assert status("c-0", dot.getvalue(), headers=headers) == 200
    assert status("c-1", dot.getvalue(), headers=headers) == 404
    assert status("c-0", dot.getvalue()) == 401
    assert status("c-0", b"x" * 5000, headers=headers) == 413
    assert api.app.state.server.gate.held_bytes == 0
    api._runner.run(service.close(0.0))


def test_both_kinds_of_body_are_described(world: World) -> None:
    described = world.api.get("/openapi.json").json()
    content = described["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}
    name = content["multipart/form-data"]["schema"]["$ref"].rsplit("/", 1)[-1]
    images = described["components"]["schemas"][name]["properties"]["images"]
    assert images["items"]["format"] == "binary"


pieces = st.sampled_from(
    [
        b"--b\r\n",
        b"--b--",
        b'content-disposition: form-data; name="model"\r\n\r\n',
        b'content-disposition: form-data; name="images"; filename="a"\r\n\r\n',
        b'content-disposition: form-data; name="top_k"\r\n\r\n',
        b"vit@c-0\r\n",
        b"5\r\n",
        b"\x89PNG\r\n\x1a\n\r\n",
        b"\r\n",
        b"\xff",
    ]
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=st.lists(pieces, max_size=14).map(b"".join) | st.binary(max_size=60))
def test_any_body_is_answered(world: World, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = world.api.post("/v1/classify", content=body, headers=headers)
    assert answer.status_code in (200, 400, 404), answer.text

"""What newcomers may send: anything else is a 4xx that says why, and changes nothing."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import pytest
import tiny
from api_transport import Api
from hostile_bodies import CLIENTS, bodies, joins_or_changes_nothing, tries
from hypothesis import given
from hypothesis import strategies as st
from image_world import World
from PIL import Image

from silva.adapters.forest import Forest
from silva.serving.api.image_app import create_image_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.api.schemas.forest import MAX_EXAMPLES
from silva.serving.newcomers import MOST_ASKING


def file(image: Image.Image, form: str = "PNG") -> str:
    content = io.BytesIO()
    image.save(content, form)
    return base64.b64encode(content.getvalue()).decode()


ANT = {"image": file(Image.new("RGB", (8, 8), (200, 10, 10))), "label": "ant"}
COW = {"image": file(Image.new("RGB", (30, 20), (10, 10, 200)), "JPEG"), "label": "cow"}
GOOD = {"examples": [ANT, COW]}


def sent(world: World, client: str, body: Any) -> Any:
    return world.api.post(f"{CLIENTS}?client={client}", json=body)


def version(world: World) -> int:
    return Forest.load(world.forest.folder).version


def bomb() -> str:
    return file(Image.new("1", (12_000, 12_000)))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "examples"),
        ({"examples": []}, "examples"),
        ({"examples": [ANT] * (MAX_EXAMPLES + 1)}, "examples"),
        ({"examples": [ANT], "tune": "leaf"}, "tune"),
        ({"examples": [ANT], "passes": 3}, "passes: is not a field"),
        ({"examples": [{"image": ANT["image"]}]}, "examples.0.label"),
        ({"examples": [{**ANT, "label": ""}]}, "examples.0.label"),
        ({"examples": [ANT, {**ANT, "label": "yak"}]}, "examples.1: the label 'yak' is no class"),
        ({"examples": [ANT, {**ANT, "image": "no base64!"}]}, "examples.1: is not base64"),
        ({"examples": [ANT, {**ANT, "image": "AAAA"}]}, "image 1: not a readable image"),
        ({"examples": [{**ANT, "image": bomb()}]}, "decompression bomb"),
        ([ANT], "body"),
        ("ant", "body"),
    ],
)
def test_bad_examples_are_refused(world: World, body: Any, said: str) -> None:
    answer = sent(world, "new-1", body)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert version(world) == 1 and world.asked("new-1", 0).status_code == 404


def test_names_that_are_taken_or_not_allowed_are_refused(world: World) -> None:
    for client in ("c-0", "root", "cluster-7", "", "..%2Fc", "x" * 65):
        answer = sent(world, client, GOOD)
        assert answer.status_code == 409, answer.text
    assert version(world) == 1
    assert sent(world, "new-1", GOOD).status_code == 200
    assert sent(world, "new-1", GOOD).status_code == 409
    assert version(world) == 2
    for client, status in (("nobody", 404), ("c-0", 409), ("root", 404)):
        answer = world.api.post(f"{CLIENTS}/{client}/leaf", json=GOOD)
        assert answer.status_code == status


def test_other_kinds_of_content_are_refused(world: World) -> None:
    for kind in ("text/plain", "multipart/form-data; boundary=x", ""):
        headers = {"content-type": kind}
        content = json.dumps(GOOD).encode()
        answer = world.api.post(f"{CLIENTS}?client=new", content=content, headers=headers)
        assert answer.status_code == 415 and "send examples as" in answer.text


def test_examples_are_for_admins(world: World) -> None:
    keys = KeyRing([parse_key("boss=secret-of-boss", "test")])
    app = create_image_app(
        world.service,
        tiny.CLASSES,
        (),
        admin_keys=keys,
        forest=world.live,
        newcomers=world.newcomers,
    )
    api = Api(app)
    for path in (f"{CLIENTS}?client=new", f"{CLIENTS}/new/leaf"):
        assert api.post(path, json=GOOD).status_code == 401
    far = Api(world.api.app, client=("192.0.2.7", 4321))
    assert far.post(f"{CLIENTS}?client=new", json=GOOD).status_code == 403


def test_a_server_that_cannot_probe_says_so(world: World) -> None:
    app = create_image_app(world.service, tiny.CLASSES, (), forest=world.live)
    answer = Api(app).post(f"{CLIENTS}?client=new", json=GOOD)
    assert answer.status_code == 415 and "takes no examples" in answer.text


def test_few_newcomers_are_received_at_a_time(world: World) -> None:
    async def many() -> list[httpx.Response]:
        ask = world.api._client.post
        names = [f"new-{n}" for n in range(MOST_ASKING + 2)]
        asked = (ask(f"{CLIENTS}?client={name}", json=GOOD) for name in names)
        return await asyncio.gather(*asked)

    found = world.api._runner.run(many())
    assert sorted(each.status_code for each in found) == [200] * MOST_ASKING + [429] * 2
    assert version(world) == 1 + MOST_ASKING


def test_of_those_who_want_a_name_at_once_one_gets_it(world: World) -> None:
    async def many() -> list[httpx.Response]:
        ask = world.api._client.post
        return await asyncio.gather(
            *(ask(f"{CLIENTS}?client=new", json=GOOD) for _ in range(MOST_ASKING))
        )

    found = world.api._runner.run(many())
    assert sorted(each.status_code for each in found) == [200] + [409] * (MOST_ASKING - 1)


def test_every_answer_belongs_to_one_version(world: World) -> None:
    """While clients join and go, `new` is answered by root and its cluster, or not at all."""
    clusters = {
        tuple(card.path): name
        for name in ("cluster-0", "cluster-1")
        if (card := world.service.model(f"vit@{name}"))
    }
    said = {name: world.said(name, 0) for name in (*clusters.values(), "c-0")}
    body = {"images": [base64.b64encode(world.pictures[0].read_bytes()).decode()], "top_k": 4}

    async def ask(model: str, found: list[httpx.Response], over: asyncio.Event) -> None:
        while not over.is_set():
            request = {"model": f"vit@{model}", **body}
            found.append(await world.api._client.post("/v1/classify", json=request))
            await asyncio.sleep(0.01)  # a refusal waits for nobody, and others have work to do

    async def scene() -> tuple[list[httpx.Response], list[httpx.Response]]:
        over, new, old = asyncio.Event(), [], []
        asking = [asyncio.create_task(ask(*each, over)) for each in (("new", new), ("c-0", old))]
        for _ in range(3):
            joined = await world.api._client.post(f"{CLIENTS}?client=new", json=GOOD)
            assert joined.status_code == 200
            gone = await world.api._client.delete(f"{CLIENTS}/new")
            assert gone.status_code == 200
        over.set()
        await asyncio.gather(*asking)
        return new, old

    new, old = world.api._runner.run(scene())
    assert old and all(each.status_code == 200 for each in old)
    assert {each.status_code for each in new} <= {200, 404}
    for each in (*old, *(each for each in new if each.status_code == 200)):
        answer = each.json()
        wanted = said[clusters.get(tuple(answer["path"]), "c-0")]
        assert answer["model"] == "vit@new" or wanted == said["c-0"]
        for found in answer["data"][0]["classes"]:
            assert found["probability"] == pytest.approx(wanted[found["label"]], abs=1e-5)


example = {
    "image": st.sampled_from([ANT["image"], COW["image"], "AAAA", "%", "data:,"])
    | st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()),
    "label": st.sampled_from([*tiny.CLASSES, "yak", "", "ANT", "\x00"]),
}


@tries(60)
@given(content=bodies(["image", "label"], example, [ANT["image"]]))
def test_any_body_is_answered_and_a_refused_one_changes_nothing(
    world: World, content: bytes
) -> None:
    joins_or_changes_nothing(world.api, lambda: version(world), content)

"""The page of `silva serve` over a Vision Transformer and its forest."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from image_forest import grow
from page_browser import VIEWS, opened, show
from PIL import Image
from real_command import ALONE, Command

from silva.models.registry import load_backbone

SLY = "<img src=x onerror=alert(1)>"
CLASSES = ("ant", SLY, "cow", "dog")
CHAIN = ("vit", "vit@root", "vit@cluster-1", "vit@c-1")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    vit = tiny.save_backbone(folder / "vit")
    forest = grow(folder / "forest", load_backbone(str(vit)), CLASSES)
    command = Command(vit, usual=ALONE, forest=forest.folder, name="vit")
    yield command.url
    command.stop()
    command.close()


def picture() -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_answered_by_four_models_as_by_the_api(browser: Any, url: str) -> None:
    small = {"width": 360, "height": 740}
    with opened(browser, f"{url}/#playground", viewport=small) as page:
        page.wait_for_selector("#names option", state="attached")
        page.fill("#chosen", "c-1")
        page.press("#chosen", "Tab")
        file = {"name": "one.png", "mimeType": "image/png", "buffer": picture()}
        page.set_input_files("#picture", file)
        page.wait_for_selector(".turn .answer")
        page.wait_for_selector(".answer[aria-busy=true]", state="detached")
        cards = page.locator(".answer").all()
        assert tuple(card.get_attribute("data-model") for card in cards) == CHAIN
        assert "no head of its own" in cards[0].inner_text()  # the backbone's own: it has none
        for model, card in zip(CHAIN[1:], cards[1:], strict=True):
            body = {"model": model, "images": [base64.b64encode(picture()).decode()]}
            [told] = httpx.post(f"{url}/v1/classify", json=body, timeout=60).json()["data"]
            rows = card.locator("li").all()
            for row, each in zip(rows, told["classes"], strict=True):
                assert row.locator("span").first.inner_text() == each["label"]
                assert f"{100 * each['probability']:.0f} %" == row.locator(".number").inner_text()
        assert SLY in cards[-1].inner_text() and page.locator(".answer img").count() == 0
        assert page.evaluate("document.querySelector('.asked').naturalWidth") == 30
        for view in VIEWS:
            show(page, view)
            assert page.evaluate("document.documentElement.scrollWidth") == 360, view


GIVEN = """([kind, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
  const place = kind === "drop" ? document.getElementById("drop") : document.body;
  const about = { bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data };
  const event = kind === "drop" ? new DragEvent(kind, about) : new ClipboardEvent(kind, about);
  place.dispatchEvent(event);
  return event.defaultPrevented;
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_taken_by_drop_and_by_paste(browser: Any, url: str, kind: str) -> None:
    with opened(browser, f"{url}/#playground") as page:
        page.wait_for_selector("#names option", state="attached")
        page.fill("#chosen", "c-1")
        page.press("#chosen", "Tab")
        # What the browser does by itself with a file that is dropped is to leave the page.
        assert page.evaluate(GIVEN, [kind, list(picture())]) == (kind == "drop")
        page.wait_for_selector(".turn .answer")
        page.wait_for_selector(".answer[aria-busy=true]", state="detached")
        assert "given.png" in page.inner_text(".question")
        card = page.locator(".answer").last
        body = {"model": CHAIN[-1], "images": [base64.b64encode(picture()).decode()]}
        [told] = httpx.post(f"{url}/v1/classify", json=body, timeout=60).json()["data"]
        assert card.locator("li span").first.inner_text() == told["classes"][0]["label"]


def test_what_is_no_picture_is_told_in_the_servers_words(browser: Any, url: str) -> None:
    with opened(browser, f"{url}/#playground") as page:
        page.wait_for_selector("#names option", state="attached")
        file = {"name": "no.png", "mimeType": "image/png", "buffer": b"no picture"}
        page.set_input_files("#picture", file)
        page.wait_for_selector(".answer .bad")
        page.wait_for_selector(".answer[aria-busy=true]", state="detached")
        assert "not a readable image" in page.locator(".answer").last.inner_text()


def test_one_process_has_no_peers_to_change(browser: Any, url: str) -> None:
    with opened(browser, f"{url}/#pools") as page:
        page.wait_for_selector("#peers tr")
        assert page.locator("#pool-cards button, #peers button").count() == 0
        assert "Images in a batch" in page.inner_text("#latencies")

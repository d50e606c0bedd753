"""The page of `silva serve` over a language model and its forest, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_browser import VIEWS, item, opened, show

pytest.importorskip("transformers")
from real_command import Command
from serving_world import save_model
from text_forest import grow

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.probe_file import Probed, encode_probed

SLY = "<img src=x onerror=document.title='taken'>"
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
MODELS = ("tiny", "tiny@root", "tiny@cluster-0", "tiny@c-0")


@dataclass(frozen=True)
class World:
    """A server, and the forest that it answers for."""

    url: str
    forest: Path

    def api(self, method: str, path: str, **more: Any) -> Any:
        return httpx.request(method, f"{self.url}{path}", timeout=120, **more).json()

    def says(self, model: str, text: str) -> str:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": 12, "temperature": 0}
        answer = self.api("POST", "/v1/chat/completions", json=body)
        return str(answer["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("page")
    model = save_model(folder / "tiny")
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    forest = grow(folder / "forest", model)
    sly = NewClient(cluster="cluster-1", seen=False, style=SLY)
    forest.commit(Change(clients={"sly": sly}))
    command = Command(model, forest=forest.folder)
    yield World(command.url, forest.folder)
    command.stop()
    command.close()


def ask(page: Any, client: str, text: str) -> dict[str, str]:
    """What every model of a client's path says on the page."""
    show(page, "playground")
    page.fill("#chosen", client)
    page.press("#chosen", "Tab")
    page.fill("#most-tokens", "12")
    page.fill("#message", text)
    page.press("#message", "Enter")
    return answers(page)


def answers(page: Any) -> dict[str, str]:
    """Of the latest question, once all are complete."""
    page.wait_for_selector(".turn .answer")
    page.wait_for_selector(".answer[aria-busy=true]", state="detached")
    cards = page.locator(".turn").first.locator(".answer").all()
    return {card.get_attribute("data-model"): card.locator(".text").inner_text() for card in cards}


def test_the_tree_opens_and_shows_a_client(browser: Any, world: World) -> None:
    with opened(browser, world.url) as page:
        page.wait_for_selector(item("cluster-1"))
        assert page.locator("#tree [role=treeitem]").count() == 4  # root, two clusters, far
        page.click(item("cluster-0"))
        page.click(item("c-0"))
        page.wait_for_selector(".digests")
        shown = page.inner_text("#inspector")
        assert all(each in shown for each in ("c-0", "cluster-0", "40", "30.00", "20.00", "12.50"))
        path = world.api("GET", "/v1/models/tiny@c-0")["path"]
        assert page.locator(".digests code").all_inner_texts() == path
        assert page.locator("#crowns [data-client]").count() == 5


def test_names_from_outside_are_text(browser: Any, world: World) -> None:
    with opened(browser, world.url) as page:
        page.fill("#search", "sly")
        page.click(item("sly"))
        page.wait_for_selector(".digests")
        assert SLY in page.inner_text("#inspector")
        assert page.locator("main img").count() == 0 and page.title() == "silva"


def test_four_models_answer_side_by_side_as_the_api_does(browser: Any, world: World) -> None:
    with opened(browser, world.url) as page:
        found = ask(page, "c-0", "the forest")
        assert tuple(found) == MODELS
        for model, said in found.items():
            assert said.split() == world.says(model, "the forest").split()
        assert len(set(found.values())) > 2
        page.fill("#chosen", "nobody")
        page.press("#chosen", "Tab")
        page.wait_for_selector("#chosen-note:not(:empty)")
        assert "does not exist" in page.inner_text("#chosen-note")


def test_one_peer_more_and_one_less(browser: Any, world: World) -> None:
    with opened(browser, f"{world.url}/#pools") as page:
        decode = page.locator("#peers tr:has(td[data-name=Role]:text-is('decode'))")
        decode.first.wait_for()
        assert page.is_disabled("[aria-label='One decode peer less']")
        page.click("[aria-label='One decode peer more']")
        decode.nth(1).wait_for()
        page.wait_for_selector("[data-key=decode] .count:has-text('2 of 2 ready')")
        peers = world.api("GET", "/admin/v1/status")["peers"]
        assert sorted(peer["name"] for peer in peers) == sorted(
            page.locator("#peers th").all_inner_texts()
        )
        page.click("[aria-label='Drain decode-2']")
        decode.nth(1).wait_for(state="detached")
        page.click("[aria-label='Drain decode-1']")  # the last one: refused, in the server's words
        page.wait_for_selector("#notice .bad")
        assert "decode-1" in page.inner_text("#notice")


def test_a_client_joins_and_is_removed_when_it_was_asked_twice(
    browser: Any, world: World, tmp_path: Path
) -> None:
    forest = Forest.load(world.forest)
    probe = tmp_path / "new.probe"
    probe.write_bytes(encode_probed(Probed(forest.signature("cluster-1"), 20), forest.manifest))
    with opened(browser, f"{world.url}/#versions") as page:
        page.wait_for_selector("#version-now:text-matches('^2')")
        page.fill("#new-client", "new")
        page.set_input_files("#probe", probe)
        page.click("#join-form button")
        page.wait_for_selector("#joined table")
        assert "new is in cluster-1" in page.inner_text("#joined")
        page.click("#join-form button")
        page.wait_for_selector("#joined .bad")
        assert "there already" in page.inner_text("#joined")
        page.fill("#version", "2")
        page.click("#version-form button")
        page.wait_for_selector("#version-now:text-matches('^2')")
        page.fill("#version", "3")
        page.click("#version-form button")
        page.wait_for_selector("#version-now:text-matches('^3')")
        show(page, "forest")
        page.fill("#search", "new")
        page.click(item("new"))
        page.click("#inspector button.grave")
        page.press("#removal-dialog button.grave", "Enter")
        assert page.is_disabled("#removal-dialog button.grave")
        page.fill("#removal-name", "new")
        page.click("#removal-dialog button.grave")
        page.wait_for_selector(item("new"), state="detached")
        ids = [card["id"] for card in world.api("GET", "/v1/models")["data"]]
        assert "tiny@new" not in ids and "tiny@sly" in ids


def test_all_of_it_by_keyboard(browser: Any, world: World) -> None:
    with opened(browser, world.url) as page:
        page.wait_for_selector(item("cluster-0"))
        press = page.keyboard.press
        tab_to(page, "search")
        press("Tab")  # into the tree
        press("ArrowDown")
        press("ArrowRight")
        press("ArrowDown")
        press("Enter")
        page.wait_for_selector("#inspector h3:text-is('c-0')")
        tab_to(page, "", "Ask c-0")
        press("Enter")
        page.wait_for_selector("#playground:not([hidden])")
        tab_to(page, "message")
        page.keyboard.type("by keys")
        press("Enter")
        assert tuple(answers(page)) == MODELS
        for view in VIEWS:
            page.focus("body")
            page.evaluate("document.activeElement.blur()")
            tab_to(page, f"to-{view}")
            press("Enter")
            page.wait_for_selector(f"#{view}:not([hidden])")
            if view == "pools":
                page.wait_for_selector("#peers tr")
            assert unreached(page) == []


def tab_to(page: Any, id_: str, text: str = "") -> None:
    """Press Tab until an element has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate("[document.activeElement.id, document.activeElement.textContent]")
        if found[0] == id_ != "" or found[1] == text != "":
            return
    raise AssertionError(f"Tab does not reach {id_ or text}")


def unreached(page: Any) -> list[str]:
    """What can be used in the view, and Tab passes by; keys of buttons that are drawn anew."""
    names = "(e => e.id || e.getAttribute('aria-label') || e.textContent)"
    wanted = page.evaluate(
        "[...document.querySelectorAll('main > section:not([hidden]) :is(a, button, input, textarea)')]"
        f".filter(e => !e.disabled && e.checkVisibility()).map({names})"
    )
    seen: set[str] = set()
    for _ in range(len(wanted) + 20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate(f"{names}(document.activeElement)"))
    return sorted(set(wanted) - seen)


def test_a_phone_scrolls_down_only(browser: Any, world: World) -> None:
    small = {"width": 360, "height": 740}
    with opened(browser, world.url, viewport=small, color_scheme="dark", has_touch=True) as page:
        page.fill("#search", "sly")
        page.click(item("sly"))
        page.wait_for_selector(".digests")
        ask(page, "c-0", "wide" * 30)
        for view in VIEWS:
            show(page, view)
            if view == "pools":
                page.wait_for_selector("#peers tr")
            assert page.evaluate("document.documentElement.scrollWidth") == 360, view


def test_nobody_is_asked_while_the_tab_is_hidden(browser: Any, world: World) -> None:
    with opened(browser, f"{world.url}/#pools") as page:
        page.wait_for_selector("#peers tr")
        page.evaluate(
            "Object.defineProperty(document, 'hidden', {get: () => window.away === true})"
        )
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        with page.expect_response("**/metrics"):
            pass
        page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
        del asked[:]
        page.wait_for_timeout(3000)
        assert asked == []
        with page.expect_request("**/admin/v1/status"):
            page.evaluate(
                "window.away = false; document.dispatchEvent(new Event('visibilitychange'))"
            )

"""The page where keys are wanted, and where there are ten thousand clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_fakes import CONTEXT, FakeBackend, FakeText
from api_server import Running
from forest_cases import BASE, make_headless
from page_browser import item, opened, show

from silva.adapters.change import Change, NewClient
from silva.serving.api.app import create_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.backend import ModelCard
from silva.serving.live_forest import LiveForest

CARD = ModelCard("m", 0, CONTEXT)
CROWD = 10_000


@pytest.fixture
def live(tmp_path: Path) -> LiveForest:
    return LiveForest(make_headless(tmp_path / "forest"), CARD, BASE.digest)


def served(live: LiveForest | None, **keys: KeyRing) -> Running:
    backend = FakeBackend()
    if live is not None:
        backend.offer(live.cards)
    return Running(create_app(backend, FakeText(), forest=live, **keys), backend)


@pytest.fixture
def guarded(live: LiveForest) -> Iterator[str]:
    keys = KeyRing([parse_key("alice=secret-of-alice", "test")])
    admins = KeyRing([parse_key("boss=secret-of-boss", "test")])
    server = served(live, keys=keys, admin_keys=admins)
    yield server.url
    server.stop()


def give(page: Any, secret: str) -> None:
    page.fill("#key", secret)
    page.press("#key", "Enter")


def test_keys_are_asked_for_when_the_server_wants_them(browser: Any, guarded: str) -> None:
    with opened(browser, guarded) as page:
        page.wait_for_selector("#key-title:text-is('Admin key')")
        give(page, "wrong-secret")
        page.wait_for_selector("#key-dialog :text('wrong admin key')")
        give(page, "secret-of-boss")
        page.wait_for_selector(item("cluster-0"))
        page.wait_for_selector("#key-title:text-is('API key')")
        give(page, "secret-of-alice")
        show(page, "playground")
        page.fill("#message", "x")
        page.press("#message", "Enter")
        page.wait_for_selector(".answer .text:text-is('Hello, world')")
        page.reload()  # kept for the tab
        page.wait_for_selector(item("cluster-0"), state="attached")
        assert page.evaluate("Object.keys(localStorage).length") == 0


def test_who_has_no_admin_key_may_still_ask(browser: Any, guarded: str) -> None:
    with opened(browser, guarded) as page:
        page.wait_for_selector("#key-title:text-is('Admin key')")
        page.keyboard.press("Escape")
        page.wait_for_selector("#key-title:text-is('API key')")
        give(page, "secret-of-alice")
        assert "admin key" in page.inner_text("#forest-refused")
        show(page, "playground")
        page.wait_for_selector("#names option", state="attached")
        page.fill("#message", "x")
        page.press("#message", "Enter")
        page.wait_for_selector(".answer .text:text-is('Hello, world')")
        assert page.locator(".answer").count() > 1


def test_a_server_without_a_forest_has_a_playground_and_pools(browser: Any) -> None:
    server = served(None)
    try:
        with opened(browser, server.url) as page:
            page.wait_for_selector("#playground:not([hidden])")
            assert not page.is_visible("#to-forest") and not page.is_visible("#to-versions")
            page.fill("#chosen", "")
            page.press("#chosen", "Tab")
            page.fill("#message", "x")
            page.click("#chat-form button.main")
            page.wait_for_selector(".answer .text:text-is('Hello, world')")
            assert page.locator(".answer").count() == 1
            show(page, "pools")
            page.wait_for_selector("#peers tr")
    finally:
        server.stop()


def test_ten_thousand_clients_are_drawn_as_far_as_they_are_looked_at(
    browser: Any, live: LiveForest, tmp_path: Path
) -> None:
    from silva.adapters.forest import Forest

    clients = {f"k-{n:05d}": NewClient(cluster=f"cluster-{n % 2}") for n in range(CROWD)}
    Forest.load(live.folder).commit(Change(clients=clients))
    live.reload()
    server = served(live)
    try:
        with opened(browser, server.url) as page:
            page.wait_for_selector(item("cluster-1"))
            assert page.locator("#tree [role=treeitem]").count() == 3
            page.click(item("cluster-1"))
            page.wait_for_selector(item("more cluster-1"))
            assert page.locator("#tree [role=treeitem]").count() == 104
            page.click(item("more cluster-1"))
            page.wait_for_selector(item("k-00299"))
            assert page.locator("#tree [role=treeitem]").count() == 204
            page.fill("#search", "9998")
            page.click(item("k-09998"))
            page.wait_for_selector(".digests")
            assert page.locator("#tree [role=treeitem]").count() == 3
            assert page.locator("#crowns circle").count() < 700
            page.fill("#chosen", "") if page.is_visible("#chosen") else None
            assert page.locator("#names option").count() <= 50
    finally:
        server.stop()

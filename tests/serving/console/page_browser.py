"""A headless Chromium, and pages whose every request and every complaint is written down."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 60_000
"""For what has to come in the end: other programs may have the processor meanwhile."""
VIEWS = ("forest", "playground", "pools", "versions")


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; the test is skipped where there is none on this machine."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Debian's chromium on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=list(ARGS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, url: str, **context: Any) -> Iterator[Any]:
    """The page of a server; afterwards it must have asked nobody else and complained of nothing."""
    asked: list[str] = []
    wrong: list[str] = []
    kept = browser.new_context(**context)
    kept.set_default_timeout(WAIT_MS)
    page = kept.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda said: wrong.append(said.text) if _is_error(said) else None)
    page.on("response", lambda each: wrong.append(each.url) if _is_missing(each) else None)
    page.goto(url)
    try:
        yield page
        assert {urlsplit(each).netloc for each in asked if not each.startswith("blob:")} == {
            urlsplit(url).netloc
        }
        assert wrong == []
    finally:
        kept.close()


def show(page: Any, view: str) -> None:
    """Go to a view by its link."""
    page.click(f"#to-{view}")
    page.wait_for_selector(f"#{view}:not([hidden])")


def item(key: str) -> str:
    """Selector of a row of the tree."""
    return f'#tree [data-key="{key}"]'


def _is_error(said: Any) -> bool:
    # The browser notes every answer of 400 and above; the API's refusals are asked for here.
    return said.type in ("error", "warning") and not said.text.startswith("Failed to load resource")


def _is_missing(response: Any) -> bool:
    path = urlsplit(response.url).path
    return response.status >= 400 and (path == "/" or path.startswith("/console/"))

"""The clocks of the overhead benchmark, by a clock that is moved by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import overhead  # noqa: E402


class Workshop:
    """Two functions, one of which calls the other."""

    now = 0.0

    def outer(self) -> str:
        self.wait(2.0)
        return self.inner()

    def inner(self) -> str:
        self.wait(3.0)
        return "made"

    def wait(self, seconds: float) -> None:
        Workshop.now += seconds


def test_each_part_counts_without_the_parts_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: Workshop.now)
    parts, plain, shop = overhead.Parts(), Workshop.outer, Workshop()
    places = [(Workshop, "outer", "outer"), (Workshop, "inner", "inner")]
    with parts.around(places), parts.inside("rest"):
        shop.wait(1.0)
        assert shop.outer() == shop.inner() == "made"
        shop.wait(1.0)
    shop.wait(100.0)
    assert dict(parts.seconds) == {"rest": 2.0, "outer": 2.0, "inner": 6.0}
    assert Workshop.outer is plain


def test_every_clocked_function_exists() -> None:
    for owner, name, _ in overhead.places():
        assert callable(getattr(owner, name))

from __future__ import annotations

import importlib
import sys
import types

import pytest

import silva


def test_public_names_are_looked_up_when_used(monkeypatch: pytest.MonkeyPatch) -> None:
    api = types.ModuleType("silva.api")
    api.tune = "the real one"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "silva.api", api)
    assert silva.tune == "the real one"
    assert set(silva.__all__) == set(dir(silva))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = silva.nonsense


def test_every_public_name_exists() -> None:
    for name, module in silva._PUBLIC.items():
        assert hasattr(importlib.import_module(module), name)

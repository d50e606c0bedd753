"""`silva profile` and `silva validate here`: flags become settings, mistakes one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calls import done, refused

from silva.reality import here
from silva.reality import profile as profiling
from silva.reality.compare import Comparison
from silva.reality.trace import TraceConfig


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory that counts as a model whose weights need no conversion."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("silva.models.convert.needs_conversion", lambda path, dtype: False)
    return folder


def test_a_profile_is_measured_with_the_settings_of_the_server(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(profiling, "write_profile", lambda *given: seen.extend(given))
    out = tmp_path / "made.toml"
    flags = ("--out", out, "--point-time", "20ms", "--set", "serve.step.chunk_tokens=32")
    assert "made.toml" in done("profile", model, *flags)
    config, target, path, _ = seen
    assert (config.model, config.point_s, path) == (str(model), 0.02, out)
    assert target.config.step.chunk_tokens == 32
    assert target.arguments == (str(model), "--set", "serve.step.chunk_tokens=32")


def test_a_comparison_is_asked_for_with_its_trace(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    seen: list[Any] = []

    def compare(config: Any, target: Any, file: Any, watch: Any) -> Comparison:
        seen.extend((config, file))
        return Comparison(1.0, TraceConfig())

    monkeypatch.setattr(here, "validate_here", compare)
    monkeypatch.setattr(Comparison, "as_plain", lambda self: {})
    monkeypatch.setattr(Comparison, "verdicts", [])
    flags = ("--model", model, "--turns", 2, "--duration", "30s", "--output", "8", "--rate", 0.5)
    assert done("validate", "here", *flags, "--json").strip() == "{}"
    config, file = seen
    assert file is None
    assert (config.turns, config.profile.model) == (2, str(model))
    assert (config.trace.rate, config.trace.duration_s, config.trace.output) == (0.5, 30.0, "8")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("validate", "cloudmatrix", "--turns", "2"), "--turns"),
        (("validate", "here", "--system", "xdeepserve"), "--system"),
        (("validate", "here", "--cases", "cases.json"), "--cases"),
        (("validate", "here", "--profile", "a.toml", "--point-time", "1s"), "--point-time"),
        (("validate", "here", "--turns", "0"), "turns"),
        (("profile", "--out", "here.json"), ".toml"),
        (("profile", "no/such/model"), "no model"),
    ],
)
def test_mistakes_are_one_line(flags: tuple[str, ...], said: str, model: Path) -> None:
    if flags[0] == "validate" and "--turns" in flags and flags[1] == "here":
        flags = (*flags, "--model", str(model))
    assert said in refused(model, *flags)


def test_a_file_without_a_profile_is_refused(model: Path) -> None:
    spec = Path(here.__file__).parents[1] / "supernode" / "specs" / "h100.toml"
    flags = ("--model", model, "--profile", spec)
    assert "no profile" in refused(model, "validate", "here", *flags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "nowhere/here.toml"], "nowhere/here.toml: cannot be written"),
        (["--set", 'http.admin_keys=["a=secret-of-a"]'], "a server with keys is not measured"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_at_once(
    words: list[str], message: str, model: Path, tmp_path: Path
) -> None:
    assert message in refused(tmp_path, "profile", model, *words)

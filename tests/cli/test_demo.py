from __future__ import annotations

import io
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
import tiny_text
from calls import World, done
from PIL import Image

from silva.adapters.forest import Forest
from silva.cli import demo, demo_texts
from silva.cli.demo_newcomer import NAME, TEST, TRAIN, make_newcomer
from silva.cli.demo_server import served
from silva.config import build
from silva.data.embedded import NAMES
from silva.data.nouns import ClientRows, Partition
from silva.data.open import open_dataset
from silva.data.partition import save_partition
from silva.errors import ServingError


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture
def small(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo with a tiny model and few clients, in an empty folder."""
    few: dict[str, Any] = {
        "clients": 6,
        "samples_per_client": 10,
        "test_per_client": 5,
        "partition": "planted(2)",
    }
    monkeypatch.setitem(demo.SETTINGS, "backbone", str(world.vit))
    monkeypatch.setitem(demo.SETTINGS, "data", {**demo.SETTINGS["data"], **few})
    monkeypatch.setitem(demo.SETTINGS, "federation", tiny.SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_runs_from_nothing_and_says_what_comes_next(small: Path) -> None:
    (small / "demo-forest.run").mkdir()
    printed = done("demo", "--no-texts", "--seed", 5)
    forest = Forest.load("demo-forest-2")
    assert "root + cluster + leaf" in printed
    picture = Path("demo-forest-2/report/overview.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"picture {picture}" in printed
    named = printed.rsplit("--client ", 1)[1].split()[0]
    assert forest.client(named).seen
    assert len(forest.clients) == 7
    joined = forest.client(NAME)
    assert not joined.seen and joined.leaf is None and joined.images == TRAIN
    assert f"{NAME} joins with {TRAIN} pictures: {joined.cluster}, live after" in printed
    for client in (NAME, *(n for n in ("c-00", "c-01") if f"as {n}" in printed)):
        assert f"as {client}" in printed
    with pytest.raises(httpx.ConnectError):
        httpx.get(re.findall(r"served at (http://\S+);", printed)[0])


def test_a_kept_server_is_served_on_until_it_is_stopped(small: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(done, "demo", "--no-texts", "--keep", "--port", port)
        while not run.done():
            with suppress(httpx.TransportError):
                names = [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]]
                if any(name.endswith(f"@{NAME}") for name in names):
                    break
            time.sleep(0.1)
        time.sleep(1.0)  # the rest of the demo
        httpx.post(f"{url}/admin/v1/stop", json={}).raise_for_status()
        assert f"serving {url}/ until Ctrl-C" in run.result()


def test_a_server_that_does_not_start_ends_the_demo(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="did not start"), served("no-such", tmp_path, 0):
        pass


def test_the_newcomer_brings_what_no_client_has(world: World, tmp_path: Path) -> None:
    dataset = open_dataset("embedded")
    rows = np.arange(len(dataset))
    clients = (ClientRows("a", rows[:1000], rows[1000:3000]),)
    save_partition(Partition("x", clients), dataset, tmp_path / "forest" / "report")
    brought = [
        make_newcomer(tmp_path / "forest", "embedded", 28, tmp_path / f"{n}.npz", seed)
        for n, seed in enumerate((1, 1, 2))
    ]
    own = open_dataset(str(brought[0].data))
    assert len(own) == TRAIN and len(brought[0].pictures) == len(brought[0].classes) == TEST
    assert set(own.class_names) <= set(dataset.class_names)
    assert brought[0].pictures == brought[1].pictures != brought[2].pictures
    whole = {bytes(i) for i in np.bitwise_not(dataset.source.load(rows[3000:], 28))}
    assert all(
        np.asarray(Image.open(io.BytesIO(p))).tobytes() in whole for p in brought[0].pictures
    )


def test_the_demo_needs_no_download() -> None:
    from silva.api import TuneConfig
    from silva.models.kinds import SHIPPED

    config = build(TuneConfig, demo.SETTINGS, "demo")
    assert config.backbone in SHIPPED
    assert config.data.path in NAMES


def test_a_free_name_passes_over_forests_and_unfinished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, taken in (("x", "x"), ("x-2", "x-2.run"), ("x-3", "x-3"), ("x-4", "")):
        assert demo._free(Path("x")) == Path(name)
        if taken:
            Path(taken).mkdir()


def test_texts_are_tuned_and_served_where_the_model_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_text.save_model(tmp_path / "model")
    monkeypatch.setitem(demo_texts.SETTINGS, "federation", tiny_text.SETTINGS)
    monkeypatch.setitem(demo_texts.SETTINGS, "data", {**demo_texts.SETTINGS["data"], "window": 16})
    demo_texts.show_texts(tmp_path / "forest", 3, str(model))
    printed = capsys.readouterr().out
    forest = Forest.load(tmp_path / "forest")
    assert sorted(forest.clients) == ["code-1", "code-2", "manual-1", "manual-2"]
    assert "Perplexity over clients" in printed
    for client in ("the base", "root", "manual-1", "code-1"):
        assert f"  as {client}" in printed


def test_a_model_is_present_once_it_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SILVA_CACHE", str(tmp_path))
    assert not demo_texts.present("smollm2")


def test_the_writers_texts_are_of_two_kinds() -> None:
    texts = demo_texts.writers()
    assert all(len(text) == demo_texts.LETTERS for text in texts.values())
    assert len(set(texts.values())) == 4
    assert all(("__all__ = [" in texts[name]) == name.startswith("code") for name in texts)

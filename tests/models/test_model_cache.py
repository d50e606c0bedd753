from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from silva.errors import ModelError
from silva.models import model_cache
from silva.models.model_cache import RECORD, ModelCache, Origin

ORIGIN = Origin("tiny", "/from/here", "ab" * 32, "float32", (1, 2, 3))


def fill(size: int = 100) -> Any:
    return lambda folder: (folder / "model.safetensors").write_bytes(bytes(size))


def put(cache: ModelCache, key: str, size: int = 100, used_s: float | None = None) -> Path:
    folder = cache.put(key, ORIGIN, size, fill(size))
    if used_s is not None:
        os.utime(folder / RECORD, (used_s, used_s))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "models", limit_bytes=1 << 20)


def visible(cache: ModelCache) -> list[str]:
    """What lies in the folder, locks aside."""
    return sorted(p.name for p in cache.root.iterdir() if not p.name.startswith(".lock-"))


def test_a_model_is_built_once(cache: ModelCache) -> None:
    assert cache.get("a") is None and cache.entries() == []
    folder = put(cache, "a")
    assert cache.put("a", ORIGIN, 100, pytest.fail) == folder == cache.get("a")
    [entry] = cache.entries()
    assert (entry.key, entry.folder, entry.origin) == ("a", folder, ORIGIN)
    assert entry.size_bytes == 100
    assert visible(cache) == ["a"]


def test_a_build_that_fails_leaves_nothing(cache: ModelCache) -> None:
    def broken(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise ModelError("is damaged")

    with pytest.raises(ModelError, match="is damaged"):
        cache.put("a", ORIGIN, 1, broken)
    assert visible(cache) == [] and cache.get("a") is None


def test_a_full_disk_is_one_line(cache: ModelCache) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match=r"No space left on device.*free space"):
        cache.put("a", ORIGIN, 1, full)
    assert visible(cache) == []


def test_too_little_space_is_said_before_the_work(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage("/")._replace(free=50)
    monkeypatch.setattr(model_cache.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ModelError, match="on the disk"):
        cache.put("a", ORIGIN, 51, pytest.fail)


def test_a_cache_that_cannot_be_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ModelCache(tmp_path / "file" / "models")
    assert cache.entries() == []
    with pytest.raises(ModelError, match="SILVA_CACHE"):
        put(cache, "a")


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "size_bytes": "x", "name": 3}']
)
def test_a_damaged_entry_is_none_and_is_built_again(cache: ModelCache, record: str) -> None:
    (put(cache, "a") / RECORD).write_text(record)
    assert cache.get("a") is None and cache.entries() == []
    assert (put(cache, "a") / "model.safetensors").is_file()
    assert [e.key for e in cache.entries()] == ["a"]


def test_keys_stay_in_the_folder(cache: ModelCache) -> None:
    for key in ("", "..", "a/b", ".hidden", "a\0"):
        with pytest.raises(ValueError, match="is no key"):
            cache.put(key, ORIGIN, 1, pytest.fail)


def test_the_least_recently_used_models_go_first(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=350)
    for n, key in enumerate("abc"):
        put(cache, key, used_s=1000.0 + n)
    cache.get("a")
    put(cache, "d")
    assert {e.key for e in cache.entries()} == {"a", "c", "d"}
    put(cache, "e", 200)
    assert {e.key for e in cache.entries()} == {"d", "e"} or {e.key for e in cache.entries()} == {
        "a",
        "e",
    }
    assert sum(e.size_bytes for e in cache.entries()) <= 350


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=250)
    held = put(cache, "a", used_s=1000.0)
    put(cache, "b", used_s=2000.0)
    with cache.hold(held):
        put(cache, "c")
        assert {e.key for e in cache.entries()} == {"a", "c"}
        assert not cache.remove("a")
        with pytest.raises(ModelError, match="do not fit into"):
            put(cache, "d", 200)
    assert cache.remove("a") and cache.remove("a")
    with pytest.raises(ModelError, match="do not fit into"):
        put(cache, "e", 251)


def test_holding_a_folder_elsewhere_or_one_that_went(cache: ModelCache, tmp_path: Path) -> None:
    with cache.hold(tmp_path):
        pass
    folder = put(cache, "a")
    cache.remove("a")
    with pytest.raises(ModelError, match="was removed"), cache.hold(folder):
        pass
    assert visible(cache) == []


def test_what_is_missing_while_a_model_is_held_is_not_the_model(cache: ModelCache) -> None:
    folder = put(cache, "a")
    with pytest.raises(FileNotFoundError, match="other"), cache.hold(folder):
        raise FileNotFoundError("other")


def test_a_model_is_held_by_whatever_path_it_is_named(cache: ModelCache, tmp_path: Path) -> None:
    put(cache, "a")
    link = tmp_path / "link"
    link.symlink_to(cache.root)
    with cache.hold(link / "a"):
        assert not cache.remove("a")
    with ModelCache(link).hold(cache.root / "a"):
        assert not cache.remove("a")
    assert cache.remove("a")


BUILDER = """
import os, sys, time
from pathlib import Path
from silva.models.model_cache import ModelCache, Origin
def build(folder):
    (folder / "model.safetensors").write_bytes(bytes(100))
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    while not os.path.exists(sys.argv[3]):
        time.sleep(0.01)
def waiting():
    with open(sys.argv[2], "a") as log:
        log.write("waiting\\n")
ModelCache(Path(sys.argv[1])).put("a", Origin("a", "", "", "float32"), 100, build, waiting)
"""


def start_builder(cache: ModelCache, log: Path, go: Path) -> subprocess.Popen[bytes]:
    arguments = [str(cache.root), str(log), str(go)]
    return subprocess.Popen([sys.executable, "-c", BUILDER, *arguments])


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if log.exists() and text in log.read_text():
            return
        time.sleep(0.01)
    pytest.fail(f"{text} did not come")


def test_two_processes_at_once_build_once(cache: ModelCache, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    first = start_builder(cache, log, go)
    wait_for(log, "built")
    second = start_builder(cache, log, go)
    wait_for(log, "waiting")
    assert cache.get("a") is None
    go.touch()
    assert [p.wait(60) for p in (first, second)] == [0, 0]
    assert log.read_text().split() == ["built", "waiting"]
    assert visible(cache) == ["a"]


def test_a_killed_builder_leaves_nothing_that_counts(cache: ModelCache, tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    first = start_builder(cache, log, go)
    wait_for(log, "built")
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    assert visible(cache) == [".building-a"] and cache.entries() == []
    put(cache, "b")
    assert visible(cache) == ["b"]
    put(cache, "a")
    (cache.root / ".removing-x-1").mkdir()
    put(cache, "c")
    assert visible(cache) == ["a", "b", "c"]


def test_the_record_is_json(cache: ModelCache) -> None:
    record = json.loads((put(cache, "a") / RECORD).read_text())
    assert record["name"] == "tiny" and record["format"] == 1


HOLDER = """
import sys, time
from pathlib import Path
from silva.models.model_cache import ModelCache
cache = ModelCache(Path(sys.argv[1]))
with cache.hold(cache.root / sys.argv[2]):
    print("holds", flush=True)
    time.sleep(600)
"""


def test_what_another_process_holds_stays_until_that_is_killed(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path, limit_bytes=250)
    put(cache, "a", used_s=1000.0)
    put(cache, "b", used_s=2000.0)
    assert not cache.in_use("a") and not cache.in_use("unknown")
    command = [sys.executable, "-c", HOLDER, str(cache.root), "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
        assert cache.in_use("a") and not cache.in_use("b")
        put(cache, "c")
        assert {e.key for e in cache.entries()} == {"a", "c"}
        assert cache.set_limit(10)[0].key == "c"
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
    assert not cache.in_use("a")
    assert [e.key for e in cache.set_limit(10)] == ["a"] and visible(cache) == [".limit"]


def test_a_limit_is_everybody_s_and_the_models_in_use_may_be_more(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models")
    assert cache.limit_bytes == model_cache.LIMIT_BYTES
    assert cache.set_limit(250) == []
    other = ModelCache(tmp_path / "models")
    assert other.limit_bytes == 250
    for n, key in enumerate("abc"):
        put(other, key, used_s=1000.0 + n)
    assert [e.key for e in cache.entries()] == ["c", "b"]
    with cache.hold(cache.root / "b"):
        assert [e.key for e in other.set_limit(50)] == ["c"]
        assert cache.limit_bytes == 50 and cache.get("b") is not None
        with pytest.raises(ModelError, match="silva model limit"):
            put(cache, "d", 40)
    put(cache, "d", 40)
    assert [e.key for e in cache.entries()] == ["d"]
    (cache.root / ".limit").write_text("many")
    assert cache.limit_bytes == model_cache.LIMIT_BYTES


@pytest.mark.parametrize("damage", ["shorter", "longer", "gone"])
def test_a_model_whose_files_have_other_sizes_is_built_again(
    cache: ModelCache, damage: str
) -> None:
    weights = put(cache, "a") / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(bytes(99 if damage == "shorter" else 101))
    assert cache.get("a") is None and cache.entries() == []
    assert (put(cache, "a") / "model.safetensors").stat().st_size == 100
    assert cache.get("a") is not None


def test_digests_of_files_are_those_written(cache: ModelCache, tmp_path: Path) -> None:
    folder = put(cache, "a")
    written = hashlib.sha256(bytes(100)).hexdigest()
    assert cache.digests(folder) == {"model.safetensors": written}
    assert cache.digests(tmp_path) == {}
    record = json.loads((folder / RECORD).read_text())
    del record["files"]  # as older versions wrote it
    (folder / RECORD).write_text(json.dumps(record))
    assert cache.get("a") == folder and cache.digests(folder) == {}

from __future__ import annotations

import errno
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny import random_head, random_pairs, same_head, same_pairs

from silva.errors import RunError
from silva.federation import state as module
from silva.federation import state_files
from silva.federation.record import Accuracy, Clustering, Round
from silva.federation.state import (
    RunFolder,
    RunState,
    TierState,
    pack_head,
    pack_pairs,
    unpack_head,
    unpack_pairs,
)

NAMES = ["c-0", "../c-1"]


def grown() -> RunState:
    state = RunState(stage="cluster", round=3, total_rounds=7, labels={"c-0": 1, "../c-1": 0})
    state.root = TierState(random_pairs(1), random_head(1), calm_rounds=2, stopped=True)
    start = TierState(random_pairs(2), random_head(2))
    state.clusters = [start, TierState(start.pairs, random_head(3), calm_rounds=1)]
    state.record.measurements.append(Accuracy("c-0", True, "root", "root", 4, 3, 6, 0.25))
    state.record.rounds.append(
        Round("root", -1, 1, 2, 0, 1, math.nan, 0.5, 0.1, 10, 20, 0.25, 0.125)
    )
    return state


def stored(folder: Path, state: RunState | None = None) -> RunFolder:
    store = RunFolder(folder, NAMES)
    store.create({"seed": 3})
    store.save(state or grown())
    return store


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same_tier(one: TierState, other: TierState) -> bool:
    return (
        same_pairs(one.pairs, other.pairs)
        and same_head(one.head, other.head)
        and (one.calm_rounds, one.stopped) == (other.calm_rounds, other.stopped)
    )


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    stored(tmp_path / "run")
    wanted, found = grown(), RunFolder(tmp_path / "run", NAMES).load()
    assert (found.stage, found.round, found.total_rounds) == ("cluster", 3, 7)
    assert found.labels == wanted.labels and found.files == wanted.files
    assert repr(found.record) == repr(wanted.record)
    assert found.root is not None and wanted.root is not None
    assert same_tier(found.root, wanted.root) and len(found.clusters) == 2
    assert all(map(same_tier, found.clusters, wanted.clusters))


def test_the_first_state_has_no_tiers(tmp_path: Path) -> None:
    stored(tmp_path / "run", RunState())
    found = RunFolder(tmp_path / "run", NAMES).load()
    assert (found.stage, found.root, found.clusters) == ("root", None, [])


def test_distances_between_clients_are_written_once(tmp_path: Path) -> None:
    state, path = grown(), tmp_path / "run"
    store = stored(path, state)
    state.record.clustering = Clustering(["c-0"], [0], [[0.0, 0.1], [0.1, 0.0]], [0.5], 1, "f", "r")
    for _ in range(3):
        state.round += 1
        store.save(state)
    assert [p.name for p in path.glob("distances-*")] == ["distances-1.safetensors"]
    assert "0.1]" not in (path / "state.json").read_text()
    again = RunFolder(path, NAMES)
    found = again.load()
    assert found.record.clustering == state.record.clustering
    written = (path / "distances-1.safetensors").stat().st_mtime_ns
    again.save(found)
    assert (path / "distances-1.safetensors").stat().st_mtime_ns == written
    flip(path / "distances-1.safetensors")
    with pytest.raises(RunError, match=r"distances-1.*checksum"):
        RunFolder(path, NAMES).load()


def test_a_folder_is_taken_if_it_has_no_more_than_a_kill_leaves_there(tmp_path: Path) -> None:
    (tmp_path / "run" / "clients").mkdir(parents=True)
    (tmp_path / "run" / "settings.tmp").write_text("{")
    stored(tmp_path / "run")
    assert RunFolder(tmp_path / "run", NAMES).load().round == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("mine")
    with pytest.raises(RunError, match="something lies here"):
        RunFolder(tmp_path / "mine", NAMES).create({})
    assert files(tmp_path / "mine") == {"letters.txt": b"mine"}


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match=r"unfinished run.*--resume"):
        RunFolder(tmp_path / "run", NAMES).create({})
    assert files(tmp_path / "run") == before


def test_no_state_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run to resume"):
        RunFolder(tmp_path / "none", NAMES).load()


def test_saving_again_and_again_leaves_one_state_on_disk(tmp_path: Path) -> None:
    state = RunState()
    store = stored(tmp_path / "run", state)
    for _ in range(3):
        store.put(state, "ema", "c-0", {"a": torch.ones(2)})
        store.put(state, "leaf", "../c-1", {"a": torch.ones(2)})
        store.save(state)
    assert len(files(tmp_path / "run")) == len(["settings", "state", "tensors", "ema", "leaf"])
    assert RunFolder(tmp_path / "run", NAMES).load().files == state.files


def test_client_files_are_numbered_and_stay_in_the_folder(tmp_path: Path) -> None:
    state = RunState()
    store = stored(tmp_path / "run", state)
    store.put(state, "leaf", "../c-1", {"a": torch.arange(3.0)})
    found = store.get(state, "leaf", "../c-1")
    assert found is not None and torch.equal(found["a"], torch.arange(3.0))
    assert store.get(state, "leaf", "c-0") is None and store.get(state, "head", "../c-1") is None
    (written,) = (tmp_path / "run" / "clients").iterdir()
    assert written.name == "000001.leaf-0.safetensors"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_was_put_after_the_last_save_does_not_count(tmp_path: Path) -> None:
    state = RunState()
    store = stored(tmp_path / "run", state)
    store.put(state, "ema", "c-0", {"a": torch.zeros(2)})
    store.save(state)
    store.put(state, "ema", "c-0", {"a": torch.ones(2)})
    again = RunFolder(tmp_path / "run", NAMES)
    resumed = again.load()
    found = again.get(resumed, "ema", "c-0")
    assert found is not None and not found["a"].any()
    again.put(resumed, "ema", "c-0", {"a": torch.full((2,), 2.0)})
    again.save(resumed)
    found = again.get(resumed, "ema", "c-0")
    assert found is not None and found["a"].tolist() == [2.0, 2.0]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def vanish(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [truncate, empty, flip])
@pytest.mark.parametrize("file", ["state.json", "tensors-1.safetensors"])
def test_a_damaged_state_is_named_with_what_to_do(tmp_path: Path, file: str, harm: Any) -> None:
    stored(tmp_path / "run")
    harm(tmp_path / "run" / file)
    with pytest.raises(RunError, match=r"damaged.*remove the folder"):
        RunFolder(tmp_path / "run", NAMES).load()


def test_a_state_without_its_tensors_is_an_error(tmp_path: Path) -> None:
    stored(tmp_path / "run")
    vanish(tmp_path / "run" / "tensors-1.safetensors")
    with pytest.raises(RunError):
        RunFolder(tmp_path / "run", NAMES).load()


@pytest.mark.parametrize("harm", [truncate, empty, flip, vanish])
def test_a_damaged_client_file_is_named_when_it_is_asked_for(tmp_path: Path, harm: Any) -> None:
    state = grown()
    store = stored(tmp_path / "run", state)
    store.put(state, "leaf", "c-0", {"a": torch.ones(4)})
    store.save(state)
    harm(tmp_path / "run" / "clients" / "000000.leaf-0.safetensors")
    again = RunFolder(tmp_path / "run", NAMES)
    with pytest.raises(RunError, match=r"000000.leaf-0.*damaged"):
        again.get(again.load(), "leaf", "c-0")


def test_a_state_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", module.FORMAT - 1)
        stored(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match=r"begun by another version.*start again"):
        RunFolder(tmp_path / "run", NAMES).load()
    assert files(tmp_path / "run") == before


def test_tiers_that_have_not_changed_are_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, written = grown(), []
    real = state_files.save_file

    def save_file(tensors: Any, path: Path, **rest: Any) -> None:
        written.append(path.name)
        real(tensors, path, **rest)

    monkeypatch.setattr(state_files, "save_file", save_file)
    store = stored(tmp_path / "run", state)
    for _ in range(2):
        state.round += 1
        store.save(state)
    store = RunFolder(tmp_path / "run", NAMES)
    state = store.load()
    state.clusters[1].calm_rounds, state.stage = 2, "leaf"
    store.save(state)
    assert written == ["tensors-1.safetensors"]
    state.clusters[1].head = random_head(9)
    store.save(state)
    assert written == ["tensors-1.safetensors", "tensors-2.safetensors"]
    assert [p.name for p in (tmp_path / "run").glob("tensors-*")] == written[1:]
    found = RunFolder(tmp_path / "run", NAMES).load()
    assert (found.stage, found.round) == ("leaf", 5)
    assert all(map(same_tier, found.clusters, state.clusters))


@pytest.mark.parametrize("content", ["[]", "null", "{}", '"state"', '{"stage": "root"}', "\0"])
def test_json_of_another_shape_is_damage(tmp_path: Path, content: str) -> None:
    stored(tmp_path / "run")
    (tmp_path / "run" / "state.json").write_text(content)
    with pytest.raises(RunError, match="damaged"):
        RunFolder(tmp_path / "run", NAMES).load()


def test_a_state_of_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "run", RunState(stage="fruit"))
    with pytest.raises(RunError, match="fruit"):
        RunFolder(tmp_path / "run", NAMES).load()


def disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_a_file(tensors: object, path: Path, **_: object) -> None:
    path.write_bytes(b"\x08")
    raise SafetensorError("I/O error: No space left on device")


@pytest.mark.parametrize(
    ("place", "writer", "fault"),
    [
        (state_files, "save_file", half_a_file),
        (state_files, "save_file", disk_full),
        (module, "replace_text", disk_full),
    ],
)
def test_a_full_disk_leaves_the_previous_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, writer: str, fault: Any
) -> None:
    state = grown()
    store = stored(tmp_path / "run", state)
    state.round, state.root = 4, TierState(random_pairs(4), random_head(4))
    with monkeypatch.context() as patch:
        patch.setattr(place, writer, fault)
        with pytest.raises(RunError, match=r"No space left.*--resume"):
            store.save(state)
    assert RunFolder(tmp_path / "run", NAMES).load().round == 3
    store.save(state)
    found = RunFolder(tmp_path / "run", NAMES).load()
    assert found.round == 4 and found.root is not None and same_tier(found.root, state.root)


def test_a_disk_that_fills_within_state_json_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = grown()
    store = stored(tmp_path / "run", state)
    before = (tmp_path / "run" / "state.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(state_files.os, "fsync", disk_full)
        with pytest.raises(RunError, match="No space left"):
            store.save(state)
    assert (tmp_path / "run" / "state.json").read_bytes() == before
    assert RunFolder(tmp_path / "run", NAMES).load().round == 3


def test_a_full_disk_while_a_client_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = grown()
    store = stored(tmp_path / "run", state)
    with monkeypatch.context() as patch:
        patch.setattr(state_files, "save_file", half_a_file)
        with pytest.raises(RunError, match="No space left"):
            store.put(state, "leaf", "c-0", {"a": torch.ones(2)})
    assert state.files == {} and store.get(state, "leaf", "c-0") is None


def test_a_power_cut_finds_a_state_with_all_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files and their names are on the disk before state.json is, and it before the old ones go."""
    state, events = RunState(), []
    store = stored(tmp_path / "run", state)
    store.put(state, "ema", "c-0", {"a": torch.zeros(2)})
    state.root = TierState(random_pairs(1), random_head(1))
    store.save(state)
    store.put(state, "ema", "c-0", {"a": torch.ones(2)})
    state.root = TierState(random_pairs(2), random_head(2))
    real = {"fsync": os.fsync, "replace": Path.replace, "unlink": Path.unlink}

    def fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        real["fsync"](descriptor)

    def replaced(path: Path, target: Path) -> Path:
        events.append(("replace", target.name))
        return real["replace"](path, target)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        events.append(("unlink", path.name))
        real["unlink"](path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlink)
    store.save(state)
    ready, named = events.index(("replace", "state.json")), ("sync", "run")
    written = {"000000.ema-1.safetensors", "tensors-3.safetensors", "clients", "run", "state.tmp"}
    synced = [name for kind, name in events[:ready] if kind == "sync"]
    assert set(synced) == written
    assert set(synced[:2]) == {"000000.ema-1.safetensors", "tensors-3.safetensors"}
    assert set(synced[2:4]) == {"clients", "run"}
    assert events[ready + 1] == named
    assert set(events[ready + 2 :]) == {
        ("unlink", "000000.ema-0.safetensors"),
        ("unlink", "tensors-2.safetensors"),
    }


def test_files_reach_the_disk_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits here until two are under way, which one after another they never would be."""
    state, together = grown(), threading.Barrier(2)
    store = stored(tmp_path / "run", state)
    for client in NAMES:
        store.put(state, "leaf", client, {"a": torch.ones(2)})

    def sync(path: Path) -> None:
        if path.suffix == ".safetensors":
            together.wait(60)

    monkeypatch.setattr(module, "sync", sync)
    store.save(state)
    assert RunFolder(tmp_path / "run", NAMES).load().files == state.files


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", NAMES).create({})


def test_settings_are_written_as_json(tmp_path: Path) -> None:
    stored(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {"seed": 3}


def test_packing_keeps_pairs_and_heads_apart() -> None:
    pairs, head = random_pairs(4), random_head(4)
    packed = {**pack_pairs(pairs), **pack_head(head)}
    assert same_pairs(unpack_pairs(packed), pairs) and same_head(unpack_head(packed), head)
    assert all(tensor.is_contiguous() for tensor in packed.values())

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from forest_cases import (
    ADAPTER,
    BASE,
    CLASSES,
    draw,
    files_of,
    full_change,
    make_forest,
    same_tier,
    signature,
    tier,
)

from silva.adapters import maintenance
from silva.adapters.change import Change, NewClient, NewCluster
from silva.adapters.forest import Forest
from silva.adapters.label_priors import LabelPriors
from silva.errors import ForestError, UnknownClientError

FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_from(patch: pytest.MonkeyPatch, step: int, names: Iterable[str], kill: bool) -> None:
    """After `step` calls of the named functions of `os` the process dies, or the disk is full."""
    calls = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > step:
                if kill:
                    os._exit(9)
                raise FULL
            return real(*args, **kwargs)

        return call

    for name in names:
        patch.setattr(os, name, wrap(getattr(os, name)))


def attempt(act: Callable[[Path], None], folder: Path, step: int, kill: bool) -> bool:
    """Run `act` with a fault after `step` calls; whether it ended all the same."""
    names = ("replace", "unlink")
    if kill:
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                fail_from(patch, step, names, kill=True)
                act(folder)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.MonkeyPatch.context() as patch:
        fail_from(patch, step, names, kill=False)
        try:
            act(folder)
        except (ForestError, OSError):
            return False
    return True


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "forest")


def test_paths_hold_the_tiers_that_were_written(forest: Forest) -> None:
    path = forest.path("c-01")
    wanted = (tier("root", 1), tier("cluster", 11), tier("leaf", 21))
    assert all(same_tier(a, b) for a, b in zip(path.tiers, wanted, strict=True))
    assert [t.name for t in forest.path("root").tiers] == ["root"]
    assert same_tier(forest.path("cluster-0").tiers[1], tier("cluster", 10))
    assert [t.name for t in forest.path("u-00").tiers] == ["root", "cluster"]
    assert forest.clients == ["c-00", "c-01", "c-02", "u-00"]
    assert forest.clusters == ["cluster-0", "cluster-1"]
    assert torch.equal(forest.signature("cluster-1")["layers.0.attention.q_proj"],
                       signature(1)["layers.0.attention.q_proj"])  # fmt: skip
    assert set(forest.probe()) == set(draw())
    assert forest.path("c-00").tiers[0] is forest.path("c-02").tiers[0]


def test_unknown_clients(forest: Forest) -> None:
    with pytest.raises(UnknownClientError, match="c-00"):
        forest.path("c-0")
    assert [t.name for t in forest.path("stranger", unknown="root").tiers] == ["root"]
    for name in ("../x", "cluster-9", "base"):
        with pytest.raises(UnknownClientError):
            forest.path(name)
    with pytest.raises(ForestError):
        forest.signature("cluster-9")


def test_equal_runs_give_equal_bytes(tmp_path: Path) -> None:
    make_forest(tmp_path / "a")
    make_forest(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_create_refuses_a_place_that_is_taken(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in (taken, tmp_path / "file"):
        with pytest.raises(ForestError, match="exists"):
            make_forest(place)
    (tmp_path / "empty").mkdir()
    make_forest(tmp_path / "empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "taken"]


def test_one_cluster_means_no_cluster(tmp_path: Path) -> None:
    change = Change(root=tier("root", 1), clients={"c-0": NewClient(leaf=tier("leaf", 2))})
    forest = Forest.create(tmp_path / "f", BASE, ADAPTER, CLASSES, change)
    assert [t.name for t in forest.path("c-0").tiers] == ["root", "leaf"]
    with pytest.raises(ForestError):
        forest.probe()


def test_commit_adds_objects_and_one_version(forest: Forest) -> None:
    before = files_of(forest.folder)
    leaf = tier("leaf", 99)
    grown = forest.commit(
        Change(clients={"new-1": NewClient(leaf=lambda: leaf, cluster="cluster-0")})
    )
    after = files_of(forest.folder)
    assert same_tier(grown.path("new-1").tiers[-1], leaf)
    assert grown.version == 2 and grown.manifest.parent == 1
    assert len(after) == len(before) + 2
    assert all(after[name] == data for name, data in before.items() if name != "current")
    assert forest.version == 1 and "new-1" not in forest.clients
    assert Forest.load(forest.folder).manifest == grown.manifest
    assert grown.verify().sound


def test_commit_builds_on_the_live_version(forest: Forest) -> None:
    forest.commit(Change(clients={"new-1": NewClient()}), parent=1)
    with pytest.raises(ForestError, match="someone else"):
        forest.commit(Change(clients={"new-2": NewClient()}), parent=1)
    both = forest.commit(Change(clients={"new-2": NewClient()}))
    assert {"new-1", "new-2"} <= set(both.clients)


def wrong_classes() -> Any:
    good = tier("leaf", 1)
    return type(good)("leaf", good.pairs, tier("leaf", 2).head.__class__(
        torch.ones(4, 5), torch.ones(4)), 2.0)  # fmt: skip


def fewer_modules() -> Any:
    good = tier("leaf", 1)
    return type(good)("leaf", dict(list(good.pairs.items())[1:]), good.head, 2.0)


def not_finite() -> Any:
    good = tier("leaf", 1)
    good.head.bias[0] = float("nan")
    return good


@pytest.mark.parametrize(
    "change",
    [
        Change(clients={"../x": NewClient()}),
        Change(clients={"root": NewClient()}),
        Change(clients={"ok": NewClient(), "c": NewClient(cluster="cluster-7")}),
        Change(clients={"c": NewClient(accuracy={"root": 1.5})}),
        Change(clients={"c": NewClient(images=-1)}),
        Change(clients={"ok": NewClient(leaf=tier("leaf", 77)), "c": NewClient(tier("root", 1))}),
        Change(clients={"c": NewClient(leaf=tier("leaf", 1, rank=3))}),
        Change(clients={"c": NewClient(leaf=tier("leaf", 1, scaling=1.0))}),
        Change(clients={"ok": NewClient(leaf=tier("leaf", 77)), "c": NewClient(wrong_classes)}),
        Change(clients={"c": NewClient(leaf=fewer_modules)}),
        Change(clients={"c": NewClient(leaf=not_finite)}),
        Change(root=tier("root", 1, rank=3)),
        Change(probe={"m": torch.ones(2, 5)}),
        Change(clusters={"main": NewCluster(tier("cluster", 1), signature(1))}),
        Change(clusters={"cluster-2": NewCluster(tier("cluster", 1), draw())}),
    ],
)
def test_what_does_not_fit_changes_nothing(forest: Forest, change: Change) -> None:
    before = files_of(forest.folder)
    with pytest.raises(ForestError) as error:
        forest.commit(change)
    assert "\n" not in str(error.value)
    assert files_of(forest.folder) == before


def test_rollback_moves_one_pointer(forest: Forest) -> None:
    grown = forest.commit(Change(clients={"new-1": NewClient(leaf=tier("leaf", 99))}))
    back = grown.rollback(1)
    assert back.version == 1 == Forest.load(forest.folder).version
    assert grown.rollback(2).path("new-1")
    grown.rollback(1)
    third = back.commit(Change(clients={"new-2": NewClient()}))
    assert (third.version, third.manifest.parent) == (3, 1)
    for number in (0, 7, -1):
        with pytest.raises(ForestError, match="no version"):
            back.rollback(number)


def test_rollback_refuses_a_version_that_is_not_whole(forest: Forest) -> None:
    grown = forest.commit(Change(clients={"new-1": NewClient(leaf=tier("leaf", 99))}))
    grown.rollback(1)
    leaf = grown.client("new-1").leaf
    assert leaf
    (forest.folder / "objects" / leaf).unlink()
    with pytest.raises(ForestError, match=leaf):
        forest.rollback(2)
    assert Forest.load(forest.folder).version == 1


def test_verify_finds_every_flipped_byte_and_missing_file(forest: Forest) -> None:
    forest.commit(Change(clients={"new-1": NewClient()}))
    for name, data in files_of(forest.folder).items():
        path = forest.folder / name
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        report = maintenance.verify(forest.folder)
        assert not report.sound and any(name in line for line in report.damaged), name
        path.unlink()
        assert not maintenance.verify(forest.folder).sound or name == "versions/1.json"
        path.write_bytes(data)
    steps: list[tuple[int, int]] = []
    report = maintenance.verify(forest.folder, after=lambda *step: steps.append(step))
    assert steps == [(n + 1, report.objects) for n in range(report.objects)]
    assert report.sound and not report.orphaned and report.versions == (1, 2)
    assert report.objects == len(forest.manifest.objects)


def test_a_flipped_number_in_current_is_noticed(forest: Forest) -> None:
    forest.commit(Change(clients={"n": NewClient()}))
    current = forest.folder / "current"
    current.write_bytes(b"1" + current.read_bytes()[1:])
    with pytest.raises(ForestError, match="damaged"):
        Forest.load(forest.folder)
    assert maintenance.rollback(forest.folder, 2).version == 2
    assert Forest.load(forest.folder).version == 2


def test_verify_reports_and_sweeps_orphans(forest: Forest) -> None:
    other = forest.folder / "objects" / ("f" * 64)
    other.write_bytes(b"x")
    (forest.folder / "objects" / ".tmp-1-a").write_bytes(b"half")
    report = forest.verify()
    assert report.sound and report.orphaned == ("f" * 64,) and len(report.unfinished) == 1
    forest.verify(sweep=True)
    report = forest.verify()
    assert not report.orphaned and not report.unfinished


def test_load_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for place in (tmp_path / "absent", tmp_path / "nothing"):
        for act in (Forest.load, maintenance.verify):
            with pytest.raises(ForestError, match="not a forest"):
                act(place)


def test_remove_erases_objects_and_every_version(forest: Forest) -> None:
    own = forest.client("c-01").leaf
    shared = forest.client("c-02").leaf
    assert own and shared
    twin = forest.path("c-02").tiers[-1]
    forest.commit(Change(clients={"twin": NewClient(leaf=twin, cluster="cluster-0")}))
    left = forest.remove("c-01")
    assert "c-01" not in left.clients and same_tier(left.path("twin").tiers[-1], twin)
    left = left.remove("c-02")
    assert same_tier(left.path("twin").tiers[-1], twin)
    files = files_of(forest.folder)
    assert f"objects/{own}" not in files and f"objects/{shared}" in files
    assert not any(b"c-01" in data or b"c-02" in data for data in files.values())
    report = left.verify()
    assert report.sound and not report.orphaned
    with pytest.raises(UnknownClientError):
        left.remove("c-01")


def test_remove_keeps_versions_without_the_client(forest: Forest) -> None:
    grown = forest.commit(Change(clients={"new-1": NewClient(leaf=tier("leaf", 99))}))
    forest.rollback(1)
    assert forest.remove("new-1").version == 1
    assert forest.verify().versions == (1,)
    assert grown.client("new-1").leaf not in files_of(forest.folder)


def test_labels_of_a_cluster_go_with_its_tier(tmp_path: Path) -> None:
    """A head that came from elsewhere was never made for the old frequencies."""
    rows = {f"cluster-{n}": [0.25, 0.25, 0.5] for n in range(2)}
    priors = LabelPriors(rows, 2.0)
    forest = Forest.create(tmp_path / "f", BASE, ADAPTER, CLASSES, full_change(), labels=priors)
    assert forest.manifest.labels == priors
    grown = forest.commit(Change(clients={"new-1": NewClient(leaf=tier("leaf", 99))}))
    assert grown.remove("new-1").manifest.labels == priors
    other = NewCluster(tier("cluster", 88), signature(8))
    found = forest.commit(Change(clusters={"cluster-1": other})).manifest.labels
    assert found == LabelPriors({"cluster-0": rows["cluster-0"]}, 2.0)


def commit_one(folder: Path) -> None:
    leaf = tier("leaf", 99)
    Forest.load(folder).commit(
        Change(
            clusters={"cluster-2": NewCluster(tier("cluster", 88), signature(8))},
            clients={"new-1": NewClient(leaf=leaf, cluster="cluster-2")},
        )
    )


def remove_one(folder: Path) -> None:
    Forest.load(folder).remove("c-01")


def roll_back(folder: Path) -> None:
    Forest.load(folder).rollback(1)


@pytest.mark.parametrize("act", [commit_one, remove_one, roll_back])
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "disk full"])
def test_a_fault_at_any_step_leaves_a_whole_forest(
    tmp_path: Path, act: Callable[[Path], None], kill: bool
) -> None:
    ended = False
    for step in range(60):
        folder = tmp_path / f"forest-{step}"
        make_forest(folder).commit(Change(clients={"second": NewClient(leaf=tier("leaf", 55))}))
        before = set(Forest.load(folder).clients)
        ended = attempt(act, folder, step, kill)
        forest = Forest.load(folder)
        assert before - set(forest.clients) <= {"c-01", "second"}
        for client in forest.clients:
            forest.path(client)
        report = forest.verify(sweep=True)
        assert report.sound, report
        if report.completed:
            assert not any(b"c-01" in data for data in files_of(folder).values())
        after = Forest.load(folder)
        swept = after.verify()
        assert (swept.orphaned, swept.unfinished, swept.completed) == ((), (), None)
        if act is not remove_one or "c-01" in after.clients:
            act(folder)
        assert Forest.load(folder).verify().sound
        if ended:
            break
    assert ended
    assert step >= 1


def test_a_crash_in_create_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    for step in range(40):
        folder = tmp_path / f"forest-{step}"
        with pytest.MonkeyPatch.context() as patch:
            fail_from(patch, step, ("replace",), kill=False)
            try:
                make_forest(folder)
                break
            except ForestError:
                pass
        assert not folder.exists() and not list(tmp_path.glob(".tmp-*"))
    assert Forest.load(folder).verify().sound


def test_a_damaged_note_of_a_removal_removes_nobody(forest: Forest) -> None:
    (forest.folder / "removing").write_bytes(b"c-02 " + b"0" * 64 + b"\n")
    with pytest.raises(ForestError, match="removing"):
        forest.verify()
    assert "c-02" in Forest.load(forest.folder).clients


def test_names_never_become_paths(tmp_path: Path) -> None:
    change = full_change()
    names = {"../../evil": NewClient(leaf=tier("leaf", 1))}
    with pytest.raises(ForestError, match="not allowed"):
        Forest.create(
            tmp_path / "f", BASE, ADAPTER, CLASSES, Change(root=change.root, clients=names)
        )
    assert list(tmp_path.iterdir()) == []

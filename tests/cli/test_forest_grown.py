"""`silva forest` on a forest that `silva tune` grew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from calls import World, client_data, digests, done, listing, refused, seen_client, silva

from silva.adapters.forest import Forest


def test_show_prints_every_client_with_its_tiers_in_order(world: World) -> None:
    printed = done("forest", "show", world.forest)
    for name in (*Forest.load(world.forest).clients, "root", "cluster-0", "cluster-1", "unseen"):
        assert name in printed
    line = next(text for text in printed.splitlines() if " leaf " in text and "c-0" in text)
    assert line.index("root ") < line.index("cluster ") < line.index("leaf ")


def test_show_as_json_and_as_a_picture(world: World, tmp_path: Path) -> None:
    picture = tmp_path / "tree.png"
    plain = json.loads(done("forest", "show", world.forest, "--json", "--plot", picture))
    assert set(plain["clients"]) == set(Forest.load(world.forest).clients)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_grown_forest_is_sound(world: World) -> None:
    report = json.loads(done("forest", "verify", world.forest, "--json"))
    assert report["sound"] and not report["orphaned"] and not report["unfinished"]


def test_a_removed_client_is_gone_and_the_others_answer(forest: Path, picture: Path) -> None:
    client = seen_client(forest)
    before = digests(forest)["clients"]
    assert f"removed {client}" in done("forest", "remove", forest, client)
    del before[client]
    assert digests(forest)["clients"] == before
    assert done("forest", "verify", forest)
    assert "no client" in refused(forest, "predict", forest, "--client", client, picture)
    done("predict", forest, "--client", next(iter(before)), picture)


def test_a_new_client_is_routed_and_its_cluster_explained(forest: Path, tmp_path: Path) -> None:
    data = client_data(tmp_path / "new.npz")
    printed = done("forest", "add", forest, "--client", "new-1", "--data", data)
    assert "similarity" in printed and "loss" in printed and "<- nearest" in printed
    entry = Forest.load(forest).client("new-1")
    assert f"new-1: {entry.cluster}" in printed
    assert entry.leaf is None and not entry.seen and entry.images == 15
    assert set(entry.accuracy) == {"root", "cluster"}


def test_a_new_client_gets_a_leaf_on_request(forest: Path, tmp_path: Path, picture: Path) -> None:
    words = ["forest", "add", forest, "--data", client_data(tmp_path / "new.npz")]
    added = json.loads(done(*words, "--client", "new-1", "--leaf-epochs", 2, "--json"))
    assert added["leaf"] and added["version"] == 2
    assert set(added["accuracy"]) == {"root", "cluster", "leaf"}
    assert set(added["similarities"]) == set(added["losses"]) == {"cluster-0", "cluster-1"}
    assert added["cluster"] == max(added["similarities"], key=added["similarities"].get)
    assert len(Forest.load(forest).path("new-1").tiers) == 3
    done("predict", forest, "--client", "new-1", picture)
    assert "there already" in refused(forest, *words, "--client", "new-1")


def test_a_leaf_is_trained_as_the_run_trained_and_as_flags_say(
    forest: Path, tmp_path: Path
) -> None:
    words = ["forest", "add", forest, "--data", client_data(tmp_path / "new.npz")]
    words += ["--client", "new-1", "--leaf-epochs", 2, "--json"]

    def leaf(*more: object) -> str | None:
        result = silva(*words, *more)
        assert result.exit_code == 0 and "note" not in result.stderr, result.output
        digest = Forest.load(forest).client("new-1").leaf
        done("forest", "rollback", forest, "--to", 1)
        return digest

    of_the_run = leaf()
    assert leaf("--set", "federation.local.lr=1e-2") == of_the_run
    assert leaf("--set", "federation.local.lr=2e-3") != of_the_run
    assert "no part" in refused(forest, *words, "--set", "federation.rounds=3")


def test_a_forest_without_settings_says_that_defaults_were_used(
    forest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Forest.load.__func__

    def older(cls: type[Forest], path: Path) -> Forest:
        found = load(cls, path)
        found.manifest = replace(found.manifest, settings=None)
        return found

    monkeypatch.setattr(Forest, "load", classmethod(older))
    data = client_data(tmp_path / "new.npz")
    result = silva("forest", "add", forest, "--client", "new-1", "--data", data)
    assert result.exit_code == 0 and "default settings" in result.stderr


def test_adding_writes_objects_and_one_version_and_rewrites_nothing(
    forest: Path, tmp_path: Path
) -> None:
    before = listing(forest)
    data = client_data(tmp_path / "new.npz")
    done("forest", "add", forest, "--client", "new-1", "--data", data, "--leaf-epochs", 1)
    after = listing(forest)
    changed = {name for name, digest in before.items() if after[name] != digest}
    assert changed == {"current"}
    new = sorted(name.split("/")[0] for name in after.keys() - before.keys())
    assert new == ["objects", "versions"]
    done("forest", "rollback", forest, "--to", 1)
    assert listing(forest)["current"] == before["current"]


def test_every_group_of_commands_has_help() -> None:
    for words in (["tune"], ["demo"], ["predict"], ["doctor"], ["pretrain"], ["forest", "add"]):
        result = silva(*words, "--help")
        assert result.exit_code == 0 and "Usage" in result.stdout

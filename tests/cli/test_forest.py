from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from silva.adapters.forest import Forest
from silva.adapters.subspace import mean_overlap
from silva.cli import forest as commands
from silva.cli.main import Commands

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from forest_cases import files_of, make_forest, same_tier, tier

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
commands.register(app)


@app.callback()
def silva() -> None:
    """Stands for the whole command line."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_forest(tmp_path / "forest").folder


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["forest", *map(str, arguments)])
    assert result.exit_code in (0, 1, 2), result.exception
    return result


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


def test_show_prints_the_tree(folder: Path) -> None:
    result = run("show", folder)
    for text in ("root", "cluster-1", "c-01", "u-00", "unseen", "70.0 %"):
        assert text in result.stdout
    assert "... 1 more" in run("show", folder, "--limit", 1).stdout


def test_show_as_json_and_as_a_picture(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "tree.png"
    result = run("show", folder, "--json", "--plot", picture)
    plain = json.loads(result.stdout)
    assert plain["clients"]["c-01"]["accuracy"]["leaf"] == 0.7
    assert plain["bytes"] == sum(plain["objects"].values())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_verify_tells_damage_by_its_exit_code(folder: Path) -> None:
    assert run("verify", folder).exit_code == 0
    leaf = Forest.load(folder).client("c-01").leaf
    assert leaf
    path = folder / "objects" / leaf
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert leaf in refused("verify", folder)
    result = run("verify", folder, "--json")
    assert result.exit_code == 2 and json.loads(result.stdout)["sound"] is False
    root = Forest.load(folder).manifest.root
    (folder / "objects" / root).unlink()
    line, listed = refused("verify", folder), run("verify", folder).stdout
    assert "(and 1 more)" in line and leaf in listed and f"{root}: is missing" in listed
    assert json.loads(run("verify", folder, "--json").stdout)["missing"] == [root]


def test_remove_and_rollback(folder: Path) -> None:
    assert run("remove", folder, "c-01").exit_code == 0
    assert "c-01" not in Forest.load(folder).clients
    assert "no client" in refused("remove", folder, "c-01")
    assert "not allowed" in refused("remove", folder, "../x")
    assert "no version 9" in refused("rollback", folder, "--to", 9)
    assert run("rollback", folder, "--to", 2).exit_code == 0


def test_export_and_import_a_leaf(folder: Path, tmp_path: Path) -> None:
    stack = tmp_path / "stack"
    assert run("export", folder, "--client", "c-01", "--stack", "--peft", stack).exit_code == 0
    before = Forest.load(folder)
    leaf = stack / "tier-leaf"
    assert run("import", folder, "--client", "new-1", "--cluster", "cluster-1", "--peft", leaf)
    assert run("import", folder, "--client", "c-00", "--peft", leaf).exit_code == 0
    after = Forest.load(folder)
    assert same_tier(after.path("new-1").tiers[-1], tier("leaf", 21))
    assert [t.name for t in after.path("new-1").tiers] == ["root", "cluster", "leaf"]
    assert after.client("c-00").leaf == before.client("c-01").leaf
    assert set(after.client("c-00").accuracy) == {"root", "cluster"}


def test_a_whole_path_comes_back_below_the_tiers_it_begins_with(
    folder: Path, tmp_path: Path
) -> None:
    before = Forest.load(folder)
    for client in ("c-01", "c-00"):
        pa = tmp_path / client
        assert run("export", folder, "--client", client, "--peft", pa).exit_code == 0
        assert run("import", folder, "--client", f"new-{client}", "--peft", pa).exit_code == 0
        assert run("import", folder, "--client", "c-02", "--peft", pa).exit_code == 0
        after, entry = Forest.load(folder), before.client(client)
        for name in (f"new-{client}", "c-02"):
            assert (after.client(name).cluster, after.client(name).leaf) == (
                entry.cluster,
                entry.leaf,
            )
    export = run("export", folder, "--tier", "cluster-0", "--peft", tmp_path / "other")
    assert export.exit_code == 0
    assert run("import", folder, "--tier", "cluster-1", "--peft", tmp_path / "other")
    line = refused("import", folder, "--client", "n", "--peft", tmp_path / "c-01")
    assert "rank 6" in line and "begins with this forest's root" in line


def test_export_and_import_shared_tiers(folder: Path, tmp_path: Path) -> None:
    before = Forest.load(folder).manifest
    for name in ("root", "cluster-1"):
        assert run("export", folder, "--tier", name, "--peft", tmp_path / name).exit_code == 0
        assert run("import", folder, "--tier", name, "--peft", tmp_path / name).exit_code == 0
    after = Forest.load(folder).manifest
    same = [after.root, *(c.object for c in after.clusters.values())]
    assert same == [before.root, *(c.object for c in before.clusters.values())]
    assert after.clients == before.clients


def test_another_tier_takes_its_own_signature_and_no_old_figures(
    folder: Path, tmp_path: Path
) -> None:
    def imported(source: str, target: str) -> Forest:
        place = tmp_path / f"{source}-{target}"
        assert run("export", folder, "--tier", source, "--peft", place).exit_code == 0
        assert run("import", folder, "--tier", target, "--peft", place).exit_code == 0
        return Forest.load(folder)

    before = Forest.load(folder)
    after = imported("cluster-0", "cluster-1")
    factors = {m: p.B for m, p in before.path("cluster-0").tiers[1].pairs.items()}
    assert mean_overlap(after.signature("cluster-1"), factors) == pytest.approx(1.0)
    for name in before.clients:
        kept, old = after.client(name), before.client(name)
        tiers = {"root"} if old.cluster == "cluster-1" else set(old.accuracy)
        assert kept.accuracy == {t: a for t, a in old.accuracy.items() if t in tiers}
        assert kept.leaf == old.leaf
    place = tmp_path / "root"
    assert run("export", folder, "--tier", "root", "--peft", place).exit_code == 0
    weights = place / "adapter_model.safetensors"
    scaled = {name: 2 * tensor for name, tensor in load_file(weights).items()}
    save_file(scaled, weights)
    assert run("import", folder, "--tier", "root", "--peft", place).exit_code == 0
    assert all(not entry.accuracy for entry in Forest.load(folder).manifest.clients.values())


def test_mistakes_are_one_line_and_change_nothing(folder: Path, tmp_path: Path) -> None:
    run("export", folder, "--client", "c-01", "--peft", tmp_path / "whole")
    before = files_of(folder)
    out = tmp_path / "out"
    assert "c-01" in refused("export", folder, "--client", "c-011", "--peft", out)
    assert "exists" in refused("export", folder, "--tier", "root", "--peft", tmp_path / "whole")
    refused("export", folder, "--peft", out)
    refused("export", folder, "--tier", "leaf", "--peft", out)
    line = refused("export", folder, "--tier", "cluster-9", "--peft", out)
    assert "no tier 'cluster-9'" in line and "root, cluster-0, cluster-1" in line
    assert "name it *.png" in refused("show", folder, "--plot", tmp_path / "tree.txt")
    assert not (tmp_path / "tree.txt").exists()
    refused("export", folder, "--client", "c-01", "--tier", "root", "--peft", out)
    wrong = ["--client", "n", "--cluster", "cluster-0", "--peft", tmp_path / "whole"]
    assert "rank 6" in refused("import", folder, *wrong)
    assert "rank 6" in refused("import", folder, "--tier", "root", "--peft", tmp_path / "whole")
    refused("import", folder, "--client", "../n", "--peft", tmp_path / "whole")
    assert "not a forest" in refused("show", tmp_path / "absent")
    assert not out.exists() and files_of(folder) == before

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from calls import World, digests, done, listing, refused, silva

from silva.adapters.forest import Forest

INTERRUPTED = """
import os, signal
from contextlib import contextmanager
from silva.cli import main, progress

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests ignores it
whole = progress.stages

@contextmanager
def stages():
    with whole() as show:
        def cut(step):
            show(step)
            if (step.stage, step.done) == ("cluster", 2):
                os.kill(os.getpid(), signal.SIGINT)
        yield cut

progress.stages = stages
main.run()
"""


def settings_of(forest: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((forest / "report" / "run.json").read_text())["config"]
    return found


def test_one_command_grows_a_forest_and_shows_what_each_tier_adds(world: World) -> None:
    for text in ("root + cluster + leaf", "never seen in training", "clusters", str(world.forest)):
        assert text in world.output.replace("\n", " ")
    forest = Forest.load(world.forest)
    assert len(forest.clients) == 8
    assert sum(not forest.client(name).seen for name in forest.clients) == 2
    assert len(forest.clusters) == 2
    summary = json.loads((world.forest / "report" / "summary.json").read_text())
    assert summary["tiers"]["leaf"]["mean"] is not None
    assert [p for p in world.folder.iterdir() if p.name.startswith("forest")] == [world.forest]


def test_rows_of_unseen_clients_come_in_the_order_of_their_training(world: World) -> None:
    _, _, unseen = world.output.partition("never seen in training")
    places = [unseen.index(text) for text in ("│ root ", "no training", "1 local epoch ")]
    assert places == sorted(places)


def test_with_one_cluster_nothing_is_called_a_cluster_tier(world: World, tmp_path: Path) -> None:
    words = world.words(tmp_path / "forest")
    printed = done(*words, "--set", "federation.clustering.k=1")
    assert "1 cluster, so no cluster tier" in printed and "root + leaf" in printed
    assert "clusters" not in printed and "routed" not in printed and "+ cluster" not in printed
    summary = json.loads((tmp_path / "forest" / "report" / "summary.json").read_text())
    assert summary["clusters"] == 1
    assert summary["unseen"]["zero_leaf"] == summary["unseen"]["root"]
    tables = (tmp_path / "forest" / "report" / "tables.md").read_text()
    assert "root + cluster" not in tables and "root + leaf" in tables


def test_flags_override_the_recipe_and_settings_reach_every_field(world: World) -> None:
    config = settings_of(world.forest)
    assert config["seed"] == 3
    assert config["data"]["clients"] == 8  # type: ignore[index]
    assert config["federation"]["probe_steps"] == 4  # type: ignore[index]
    assert config["federation"]["head"] == "tiered"  # type: ignore[index]


def test_an_interrupted_run_resumes_to_the_same_forest(world: World, tmp_path: Path) -> None:
    out = tmp_path / "forest"
    words = [*world.words(out, seed=3), "--set", "federation.probe_steps=4"]
    command = [sys.executable, "-c", INTERRUPTED, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 130, ended.stderr
    assert "--resume" in ended.stderr.splitlines()[-1]
    assert not out.exists()
    state = json.loads((tmp_path / "forest.run" / "state.json").read_text())
    assert state["content"]["stage"] == "cluster"

    assert "unfinished run" in refused(tmp_path, *words)
    assert "keeps its settings" in refused(tmp_path, "tune", "--resume", out, "--rounds", 9)
    assert "(out was given)" in refused(tmp_path, "tune", "--resume", out, "--out", "other")
    assert "root + cluster" in done("tune", "--resume", out)
    assert digests(out) == digests(world.forest)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["forest"]
    assert "no unfinished run" in refused(tmp_path, "tune", "--resume", out)


def test_an_interruption_before_the_first_round_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silva.federation import tune

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "save_partition", interrupt)
    result = silva(*world.words(tmp_path / "forest"))
    assert result.exit_code == 130
    assert listing(tmp_path) == {}


def test_a_mistake_in_a_real_process(world: World, tmp_path: Path) -> None:
    words = map(str, world.words(tmp_path / "forest", data=tmp_path / "absent.npz"))
    command = [sys.executable, "-c", "from silva.cli.main import run; run()", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"silva: error: {tmp_path}/absent.npz: no such file")
    assert ended.stderr.count("\n") == 1
    assert listing(tmp_path) == {}

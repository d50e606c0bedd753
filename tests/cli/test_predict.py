from __future__ import annotations

import json
from pathlib import Path

from calls import World, done, refused, seen_client, silva

from silva.adapters.forest import Forest


def test_classes_with_their_chances_for_every_image(world: World, picture: Path) -> None:
    client = seen_client(world.forest)
    lines = done("predict", world.forest, "--client", client, "--top", 2, picture, picture)
    rows = lines.splitlines()
    assert len(rows) == 2 * 3
    assert rows[0] == str(picture)
    assert all("%" in row for row in rows[1:3])
    assert rows[:3] == rows[3:]


def test_json_holds_probabilities_that_sum_to_one(world: World, picture: Path) -> None:
    client = seen_client(world.forest)
    answers = json.loads(done("predict", world.forest, "--client", client, "--json", picture))
    assert [answer["image"] for answer in answers] == [str(picture)]
    assert set(answers[0]["classes"]) == set(Forest.load(world.forest).class_names)
    chances = answers[0]["probabilities"]
    assert abs(sum(chances) - 1) < 1e-4
    assert chances == sorted(chances, reverse=True)


def test_every_tier_has_an_answer_of_its_own(world: World, picture: Path) -> None:
    client = seen_client(world.forest)
    cluster = Forest.load(world.forest).client(client).cluster
    answers = {
        done("predict", world.forest, "--client", name, "--json", picture)
        for name in ("root", cluster, client)
    }
    assert len(answers) == 3


def test_an_unknown_client_is_a_mistake_unless_the_root_may_answer(
    world: World, picture: Path
) -> None:
    words = ["predict", world.forest, picture, "--json", "--client"]
    line = refused(world.folder, *words, "c-99")
    assert "no client 'c-99'" in line
    root = done(*words, "root")
    assert done(*words, "c-99", "--unknown-client", "root") == root
    assert "error or root" in refused(world.folder, *words, "c-99", "--unknown-client", "leaf")


def test_a_moved_backbone_is_found_by_its_flag(world: World, picture: Path, tmp_path: Path) -> None:
    import shutil

    import tiny

    words = ["predict", world.forest, picture, "--client", "root", "--json"]
    moved = shutil.copytree(world.vit, tmp_path / "moved")
    assert done(*words, "--backbone", moved) == done(*words)
    other = tiny.save_backbone(tmp_path / "other", seed=5)
    assert "other weights" in refused(tmp_path, *words, "--backbone", other)


def test_without_images_or_client_the_usage_is_shown(world: World, picture: Path) -> None:
    assert silva("predict", world.forest, "--client", "root").exit_code == 2
    assert silva("predict", world.forest, picture).exit_code == 2

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "federation"))
import tiny

from silva import api
from silva.cli.progress import TITLES
from silva.config import build
from silva.errors import DataError, ForestError, RunError

DATA = {
    "partition": "patho_grouped(2)",
    "clients": 6,
    "unseen": 0.3,
    "samples_per_client": 10,
    "test_per_client": 4,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbone `vit` and data set `data.npz`."""
    folder = tmp_path_factory.mktemp("api")
    tiny.save_backbone(folder / "vit")
    tiny.save_data(folder / "data.npz")
    return folder


def config(files: Path, **changes: Any) -> api.TuneConfig:
    federation = {**tiny.SETTINGS, "controls": ["head_only"]}
    data = {**DATA, "path": str(files / "data.npz"), **changes}
    values = {"backbone": str(files / "vit"), "data": data, "federation": federation}
    return build(api.TuneConfig, values, "test")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_run_goes_on_and_its_forest_predicts_and_grows(
    files: Path, tmp_path: Path
) -> None:
    stages: list[str] = []

    def interrupt(progress: api.Progress) -> None:
        stages.append(progress.stage)
        if progress.stage == "leaf":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.tune(config(files), tmp_path / "forest", interrupt)
    assert names(tmp_path) == ["forest.run"]
    forest = api.resume(tmp_path / "forest", lambda progress: stages.append(progress.stage))
    assert names(tmp_path) == ["forest"]
    tiers = ["root", "clustering", "labels", "cluster", "leaf", "unseen"]
    assert list(dict.fromkeys(stages)) == ["head", "calibration", *tiers, "forest", "report"]
    assert set(stages) <= set(TITLES)
    assert isinstance(forest, api.Forest)

    Image.fromarray(tiny.arrays()["images"][0]).save(tmp_path / "ant.png")
    steps: list[tuple[str, int, int]] = []

    def watch(progress: api.Progress) -> None:
        steps.append((progress.stage, progress.done, progress.total))

    many = [tmp_path / "ant.png"] * 65
    answer, *_ = forest.predict(forest.clients[0], many, on_progress=watch)
    assert set(answer.classes) == set(tiny.CLASSES)
    assert steps == [("predict", 64, 65), ("predict", 65, 65)]

    steps.clear()
    added = forest.add("new-1", str(files / "data.npz"), leaf_epochs=2, on_progress=watch)
    ways = 1 + len(forest.clusters)
    assert steps[:ways] == [("probe", n + 1, ways) for n in range(ways)]
    assert steps[ways : ways + 2] == [("leaf epochs", 1, 2), ("leaf epochs", 2, 2)]
    assert steps[ways + 2 :] == [("measure", n, 3) for n in (1, 2, 3)]
    assert added.leaf and added.images == 4 * tiny.TRAIN_IMAGES
    assert "new-1" in added.forest.clients and "new-1" not in forest.clients
    assert api.Forest.load(tmp_path / "forest").predict("new-1", [tmp_path / "ant.png"])


def test_a_mistake_leaves_no_trace(files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        api.tune(config(files, path="absent"), tmp_path / "forest")
    assert names(tmp_path) == []


def test_a_full_disk_later_on_leaves_a_run_to_resume(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silva.federation.state import RunFolder

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_up(progress: api.Progress) -> None:
        monkeypatch.setattr(RunFolder, "save", full)

    with pytest.raises(RunError, match=r"No space left on device.*--resume"):
        api.tune(config(files), tmp_path / "forest", fill_up)
    assert (tmp_path / "forest.run" / "state.json").exists()


def test_a_full_disk_before_the_first_state_leaves_nothing(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from silva.federation.state import RunFolder

    def full(*arguments: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr(RunFolder, "save", full)
    with pytest.raises(RunError, match="No space left on device"):
        api.tune(config(files), tmp_path / "forest")
    assert names(tmp_path) == []


def test_an_unfinished_run_of_another_is_left_alone(files: Path, tmp_path: Path) -> None:
    (tmp_path / "forest.run").mkdir()
    (tmp_path / "forest.run" / "settings.json").write_text("theirs")
    with pytest.raises(RunError, match="unfinished run"):
        api.tune(config(files), tmp_path / "forest")
    assert names(tmp_path / "forest.run") == ["settings.json"]


def test_the_folder_one_stands_in_is_a_place_like_any_other(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "forest").mkdir()
    monkeypatch.chdir(tmp_path / "forest")
    with pytest.raises(RunError, match=r"forest\.run: no unfinished run"):
        api.resume(".")
    (tmp_path / "forest" / "notes").write_text("mine")
    with pytest.raises(ForestError, match="already exists"):
        api.tune(config(files), "")


def test_every_image_of_a_client_is_read_before_the_run(files: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in tiny.CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images" / "cow" / "7.png").write_bytes(b"moo")
    wrong = config(
        files,
        path=str(tmp_path / "images"),
        split="0.25",
        partition="gl_dir(9)",
        clients=1,
        samples_per_client=0,
        test_per_client=99,
    )
    with pytest.raises(DataError, match=r"cow/7\.png"):
        api.tune(wrong, tmp_path / "forest")
    assert names(tmp_path) == ["images"]

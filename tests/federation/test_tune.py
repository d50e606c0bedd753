from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import arrays, save_backbone, save_data, settings

from silva.adapters.forest import Forest
from silva.data import histogram
from silva.data.config import DataConfig
from silva.data.nouns import ImageDataset
from silva.errors import (
    ConfigError,
    DataError,
    ForestError,
    ModelError,
    PartitionError,
    RunError,
    SilvaError,
)
from silva.federation import report
from silva.federation import tune as module
from silva.federation.run import Progress
from silva.federation.state_files import alone
from silva.federation.tune import TuneConfig, resume, run_folder, tune


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of a tiny run's time, and have tests of their own."""
    monkeypatch.setattr(report, "render_plots", lambda *_: {})
    monkeypatch.setattr(histogram, "draw_histogram", lambda *given: None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    save_backbone(folder / "vit")
    save_data(folder / "data.npz")
    return folder


@pytest.fixture
def config(source: Path) -> TuneConfig:
    data = DataConfig(
        path=str(source / "data.npz"),
        partition="patho_grouped(2)",
        clients=6,
        unseen=0.34,
        samples_per_client=8,
        test_per_client=4,
    )
    return TuneConfig(
        backbone=str(source / "vit"),
        threads=1,
        data=data,
        federation=settings(leaf__rounds=1, unseen_epochs=1, controls=("head_only",)),
    )


def interrupted(config: TuneConfig, out: Path, stage: str = "cluster") -> None:
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.done) == (stage, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(config, out, stop)


def test_one_call_grows_a_forest_with_its_report(config: TuneConfig, tmp_path: Path) -> None:
    forest = tune(config, tmp_path / "forest")
    assert forest.verify().sound and len(forest.clients) == 6
    assert sum(forest.client(c).seen for c in forest.clients) == 4
    written = {p.name for p in (tmp_path / "forest" / "report").iterdir()}
    assert {"summary.json", "run.json", "partition.json", "metrics.parquet"} <= written
    facts = json.loads((tmp_path / "forest" / "report" / "run.json").read_text())
    assert facts["partition"] == "patho_grouped(2)" and facts["seed"] == 0
    assert {"silva", "torch", "numpy", "python"} <= set(facts["versions"])
    assert [p.name for p in tmp_path.iterdir()] == ["forest"]


def test_equal_settings_give_equal_forests_and_another_seed_another(
    config: TuneConfig, tmp_path: Path
) -> None:
    one, other, third = (
        tune(c, tmp_path / name)
        for name, c in (("a", config), ("b", config), ("c", replace(config, seed=1)))
    )
    assert one.manifest.checksum() == other.manifest.checksum()
    assert one.manifest.root != third.manifest.root


def test_an_interrupted_run_lies_beside_the_forest_and_is_resumed(
    config: TuneConfig, tmp_path: Path
) -> None:
    out = tmp_path / "forest"
    interrupted(config, out)
    assert not out.exists() and run_folder(out).is_dir()
    with pytest.raises(RunError, match="--resume"):
        tune(config, out)
    stages = []
    forest = resume(out, lambda progress: stages.append(progress.stage))
    assert stages[0] == "cluster" and "root" not in stages
    assert forest.manifest.checksum() == tune(config, tmp_path / "b").manifest.checksum()
    assert not run_folder(out).exists()


def test_without_a_run_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no unfinished run"):
        resume(tmp_path / "forest")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": {}}', "\0\1"])
def test_damaged_settings_are_an_error_of_one_line(
    config: TuneConfig, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "forest"
    run_folder(out).mkdir()
    (run_folder(out) / "settings.json").write_text(content)
    with pytest.raises(RunError, match=r"settings are damaged.*start again") as caught:
        resume(out)
    assert "\n" not in str(caught.value)


def test_a_run_with_settings_of_another_version_is_refused_as_such(
    config: TuneConfig, tmp_path: Path
) -> None:
    out = tmp_path / "forest"
    interrupted(config, out)
    path = run_folder(out) / "settings.json"
    settings = json.loads(path.read_text())
    settings["config"]["federation"]["leaf"]["label_prior"] = 0.5
    path.write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r"another version of silva.*label_prior.*start again"):
        resume(out)


@pytest.mark.parametrize("file", ["state.json", "tensors", "partition.json"])
def test_a_truncated_file_of_the_run_is_an_error_and_changes_nothing(
    config: TuneConfig, tmp_path: Path, file: str
) -> None:
    out = tmp_path / "forest"
    interrupted(config, out)
    (path,) = [p for p in run_folder(out).rglob("*") if p.name.startswith(file)]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SilvaError) as caught:
        resume(out)
    assert path.name.partition("-")[0] in str(caught.value) or "state.json" in str(caught.value)
    assert not out.exists()
    path.write_bytes(whole)
    assert resume(out).verify().sound


def test_a_truncated_client_file_is_an_error_of_the_run(config: TuneConfig, tmp_path: Path) -> None:
    out = tmp_path / "forest"
    interrupted(config, out, stage="unseen")
    leaf = next((run_folder(out) / "clients").glob("*.leaf-*"))
    leaf.write_bytes(leaf.read_bytes()[:40])
    with pytest.raises(RunError, match=r"damaged.*start again"):
        resume(out)
    assert not out.exists()


def test_another_backbone_under_the_same_path_is_refused(
    config: TuneConfig, tmp_path: Path
) -> None:
    own = replace(config, backbone=str(save_backbone(tmp_path / "vit")))
    interrupted(own, tmp_path / "forest")
    shutil.rmtree(tmp_path / "vit")
    save_backbone(tmp_path / "vit", seed=1)
    with pytest.raises(RunError, match="not the one the run started with"):
        resume(tmp_path / "forest")


def exchanged(path: Path, one: int, other: int) -> None:
    """Two images of an npz change places, with everything else as it was."""
    held = dict(np.load(path))
    held["images"][[one, other]] = held["images"][[other, one]]
    np.savez(path, **held)


def test_other_data_under_the_same_path_are_refused(config: TuneConfig, tmp_path: Path) -> None:
    data = save_data(tmp_path / "data.npz")
    own = replace(config, data=replace(config.data, path=str(data)))
    interrupted(own, tmp_path / "forest")
    exchanged(data, 0, 1)
    with pytest.raises(RunError, match=r"not those the run started with.*restore them"):
        resume(tmp_path / "forest")
    exchanged(data, 0, 1)
    assert resume(tmp_path / "forest").verify().sound


def test_images_are_read_for_their_digest_before_anything_is_dealt(
    config: TuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing has been heard of the run, a command says that it reads images."""
    real, events = ImageDataset.digest, []
    monkeypatch.setattr(ImageDataset, "digest", lambda d: events.append("digest") or real(d))
    dealt = module.deal
    monkeypatch.setattr(module, "deal", lambda *given: events.append("deal") or dealt(*given))
    tune(config, tmp_path / "forest", lambda progress: events.append("progress"))
    assert events[:3] == ["digest", "deal", "progress"] and events.count("digest") == 1


def test_a_run_that_kept_no_digest_of_its_data_goes_on(
    config: TuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(config, tmp_path / "forest")
    path = run_folder(tmp_path / "forest") / "settings.json"
    kept = json.loads(path.read_text())
    del kept["data"]
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(ImageDataset, "digest", None)  # there is nothing to compare it with
    assert resume(tmp_path / "forest").verify().sound


def test_a_run_is_resumed_with_the_commit_of_the_data_that_it_began_with(
    config: TuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = module.open_dataset, []

    def open_pinned(path: str, **options: str) -> ImageDataset:
        asked.append(path)
        return replace(real(config.data.path, **options), origin="hub:owner/name@abc")

    monkeypatch.setattr(module, "open_dataset", open_pinned)
    own = replace(config, data=replace(config.data, path="hub:owner/name"))
    interrupted(own, tmp_path / "forest")
    resume(tmp_path / "forest")
    assert asked == ["hub:owner/name", "hub:owner/name@abc"]
    facts = json.loads((tmp_path / "forest" / "report" / "run.json").read_text())
    assert facts["config"]["data"]["path"] == "hub:owner/name@abc"


def test_a_full_disk_ends_the_run_with_an_error_and_resume_goes_on(
    config: TuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silva.federation import state_files

    out, real, writes = tmp_path / "forest", state_files.save_file, []

    def fill_up(tensors, path, **rest) -> None:
        writes.append(path)
        if len(writes) > 12:
            path.write_bytes(b"\0")
            raise OSError(28, "No space left on device")
        real(tensors, path, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(state_files, "save_file", fill_up)
        with pytest.raises(RunError, match="No space left on device"):
            tune(config, out)
    assert not out.exists()
    assert resume(out).manifest.checksum() == tune(config, tmp_path / "b").manifest.checksum()


def test_bad_input_is_refused_before_anything_is_written(
    config: TuneConfig, tmp_path: Path
) -> None:
    out = tmp_path / "forest"
    wrong = {
        DataError: replace(config, data=replace(config.data, path=str(tmp_path / "none.npz"))),
        ModelError: replace(config, backbone=str(tmp_path / "no-vit")),
        PartitionError: replace(config, data=replace(config.data, clients=5000)),
        ConfigError: replace(config, device="abacus"),
    }
    for kind, bad in wrong.items():
        with pytest.raises(kind):
            tune(bad, out)
        assert list(tmp_path.iterdir()) == []


def test_what_no_forest_could_hold_is_refused_before_the_first_round(
    config: TuneConfig, tmp_path: Path
) -> None:
    out = tmp_path / "forest"
    for names, why in (
        (("ant", "bee", "cow", "cow"), "twice"),
        (("a", "b", "c", 300 * "d"), "256"),
    ):
        np.savez(tmp_path / "bad.npz", **{**arrays(), "class_names": np.array(names)})
        bad = replace(config, data=replace(config.data, path=str(tmp_path / "bad.npz")))
        with pytest.raises(DataError, match=rf"{why}.*rename the classes"):
            tune(bad, out)
    deep = tmp_path / ("d" * 200) / ("e" * 200)
    shutil.copytree(config.backbone, deep / "vit")
    with pytest.raises(ModelError, match="shorter path"):
        tune(replace(config, backbone=str(deep / "vit")), out)
    assert not out.exists() and not run_folder(out).exists()


class StopError(Exception):
    """In place of Ctrl-C."""


def interrupt(config: TuneConfig, out: Path) -> None:
    """A run that ends when its leaves begin."""

    def stop(progress: Progress) -> None:
        if progress.stage == "leaf":
            raise StopError

    with pytest.raises(StopError):
        tune(config, out, stop)


def test_two_processes_do_not_work_on_one_run(config: TuneConfig, tmp_path: Path) -> None:
    out = tmp_path / "forest"
    interrupt(config, out)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with alone(run_folder(out)), pytest.raises(RunError, match="another process works on it"):
        resume(out)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert resume(out).version == 1


def test_a_run_is_not_thrown_away_for_another_forest_in_its_place(
    config: TuneConfig, tmp_path: Path
) -> None:
    out = tmp_path / "forest"
    interrupt(config, out)
    tune(replace(config, seed=config.seed + 1), tmp_path / "other")
    (tmp_path / "other").rename(out)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ForestError, match="something else lies"):
        resume(out)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    out.rename(tmp_path / "elsewhere")
    assert resume(out).version == 1


def test_an_out_that_exists_is_refused_and_left_alone(config: TuneConfig, tmp_path: Path) -> None:
    out = tmp_path / "forest"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    with pytest.raises(ForestError, match="choose another --out"):
        tune(config, out)
    assert [p.name for p in tmp_path.rglob("*")] == ["forest", "diary.txt"]


def test_an_empty_out_is_used(config: TuneConfig, tmp_path: Path) -> None:
    (tmp_path / "forest").mkdir()
    assert tune(config, tmp_path / "forest").verify().sound


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    config: TuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "forest"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_partition", stop)
        with pytest.raises(KeyboardInterrupt):
            tune(config, out)
    assert resume(out).manifest.checksum() == tune(config, tmp_path / "b").manifest.checksum()


def test_what_a_kill_left_of_a_finished_run_is_removed(config: TuneConfig, tmp_path: Path) -> None:
    out = tmp_path / "forest"
    forest = tune(config, out)
    (run_folder(out) / "clients").mkdir(parents=True)
    assert resume(out).manifest.checksum() == forest.manifest.checksum()
    assert not run_folder(out).exists() and Forest.load(out).verify().sound


def test_a_number_of_clusters_that_cannot_be_is_refused_before_anything_is_written(
    config: TuneConfig, tmp_path: Path
) -> None:
    clustering = replace(config.federation.clustering, rule="fixed", k=50)
    config = replace(config, federation=replace(config.federation, clustering=clustering))
    with pytest.raises(RunError, match=r"federation.clustering.k.*choose 1 to"):
        tune(config, tmp_path / "forest")
    assert not list(tmp_path.glob("forest*"))

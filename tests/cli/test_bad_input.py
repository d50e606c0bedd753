"""Bad input ends in one line that names cause and remedy, with exit code 2 and no file changed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import bad_data
import pytest
import tiny
from calls import World, client_data, done, listing, refused, seen_client, silva

from silva.adapters.forest import Forest


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bad_data.absent, "no such file"),
        (bad_data.empty_file, "empty file"),
        (bad_data.truncated_tar, "damaged"),
        (bad_data.truncated_npz, "damaged npz"),
        (bad_data.truncated_idx, "fewer bytes than its header"),
        (bad_data.truncated_parquet, "damaged parquet"),
        (bad_data.pickle_that_runs_code, "pickle wants to run"),
        (bad_data.npz_that_runs_code, "Python objects"),
        (bad_data.path_outside, "leaves the folder"),
    ],
)
def test_data_that_cannot_be_opened(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in refused(tmp_path, *world.words(tmp_path / "forest", data=make(tmp_path)))
    assert not (tmp_path / bad_data.CANARY).exists()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (bad_data.no_image, "bee/3.png: not a readable image"),
        (bad_data.truncated_jpeg, "ant/z.jpg: not a readable image"),
        (bad_data.image_bomb, "bee/3.png: image has 9000 x 9000 pixels"),
        (bad_data.huge_image_bomb, "ant/0.png: image has far too many pixels"),
    ],
)
def test_one_bad_image_among_good_ones_is_found_before_the_run(
    world: World, tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    flags = {"partition": "gl_dir(9)", "split": 0.3, "clients": 1, "samples_per_client": 0}
    words = world.words(tmp_path / "forest", data=make(tmp_path), **flags, test_per_client=99)
    assert reason in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"clients": 400}, "400 clients x 12 samples need more than"),
        ({"clients": 241, "samples_per_client": 0}, "241 clients x 1 samples need more than"),
        ({"partition": "striped(3)"}, "no partition is called 'striped'"),
        ({"partition": "sc_dir(x)"}, "n_super is 'x'"),
        ({"partition": "planted(2"}, "not name(value,key=value)"),
        ({"partition": "domain_dir(0.5)"}, "no column 'domain'"),
        ({"partition": "by_folder"}, "no column 'client'"),
        ({"partition": "patho_grouped(9)"}, "9 classes per client"),
        ({"clients": 0}, "data.clients: 0 is out of range"),
        ({"unseen": 1.5}, "data.unseen: 1.5 is out of range"),
        ({"split": "fold"}, "no column 'fold'"),
        ({"labels": "species"}, "no column 'species'"),
        ({"device": "abacus"}, "cannot compute on 'abacus'"),
        ({"set": "federation.rounds"}, "is no setting"),
        ({"set": "federation.rounds=many"}, "'many' is not a whole number"),
        ({"set": "federation=3"}, "not a table"),
        ({"set": "federation.local.lr=nan"}, "not finite"),
        ({"set": "federation.x=" + 2000 * "["}, "unknown field"),
        ({"set": "data.clinets=3"}, "did you mean data.clients"),
    ],
)
def test_a_wrong_setting(
    world: World, tmp_path: Path, flags: dict[str, object], reason: str
) -> None:
    assert reason in refused(tmp_path, *world.words(tmp_path / "forest", **flags))


def test_no_data(world: World, tmp_path: Path) -> None:
    words = ["tune", "--backbone", world.vit, "--out", tmp_path / "forest"]
    assert "no data named" in refused(tmp_path, *words)


def test_the_name_of_a_client_that_leaves_the_folder(world: World, tmp_path: Path) -> None:
    data = bad_data.client_outside(tmp_path)
    words = world.words(tmp_path / "forest", data=data, partition="by_column(client)")
    assert "'../evil' is not allowed" in refused(tmp_path, *words)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[federation]\nroundz = 3", "federation.roundz: unknown field; did you mean"),
        ("clients = 3", "clients: unknown field; did you mean data.clients"),
        ("[federation\n", "not valid TOML"),
        ("seed = '1'", "seed: '1' is not a whole number"),
    ],
)
def test_a_recipe_with_a_mistake(world: World, tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    words = world.words(tmp_path / "forest", config=tmp_path / "run.toml")
    assert reason in refused(tmp_path, *words)


def test_a_recipe_that_is_not_there(world: World, tmp_path: Path) -> None:
    words = world.words(tmp_path / "forest", config=tmp_path / "run.toml")
    assert "no such file" in refused(tmp_path, *words)


def test_a_directory_that_is_no_backbone(world: World, tmp_path: Path) -> None:
    out = tmp_path / "forest"
    assert "no config.json" in refused(tmp_path, *world.words(out, backbone=tmp_path))
    absent = tmp_path / "vit"
    assert "no backbone" in refused(tmp_path, *world.words(out, backbone=absent))
    tiny.save_backbone(absent)
    weights = absent / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "model.safetensors" in refused(tmp_path, *world.words(out, backbone=absent))


def test_a_place_that_is_taken(world: World, tmp_path: Path, forest: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "waiting.run").mkdir()
    (tmp_path / "waiting.run" / "settings.json").write_text("{}")
    for out, reason in (
        (forest, "already exists"),
        (tmp_path / "file", "already exists"),
        (tmp_path, "already exists"),
        (tmp_path / "waiting", "unfinished run"),
    ):
        assert reason in refused(tmp_path, *world.words(out))


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("file/deep/forest", "Not a directory"),
        ("x" * 300, "too long"),
        ("/", "no place for a forest"),
        ("/proc/self/forest", "No such file"),
    ],
)
def test_a_place_that_cannot_be(world: World, tmp_path: Path, out: str, reason: str) -> None:
    (tmp_path / "file").write_text("mine")
    assert reason in refused(tmp_path, *world.words(tmp_path / out))


def test_a_name_with_a_line_break_stays_one_line(world: World, tmp_path: Path) -> None:
    line = refused(tmp_path, *world.words(tmp_path / "forest", data=tmp_path / "a\nb\x1b[2J"))
    assert "a\\nb\\x1b[2J" in line


def test_a_full_disk_before_the_first_round(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from silva.federation import tune

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tune, "save_partition", full)
    line = refused(tmp_path, *world.words(tmp_path / "forest"))
    assert "No space left" in line and "free space" in line


# On a grown forest.


def test_images_that_cannot_be_read(world: World, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("dear reader")
    (tmp_path / "bomb.png").write_bytes(bad_data.png(60_000, 60_000))
    (tmp_path / "empty.png").write_bytes(b"")
    for name, reason in (
        ("letter.png", "not a readable image"),
        ("bomb.png", "bomb"),
        ("empty.png", "empty file"),
        ("absent.png", "No such file"),
        (".", "Is a directory"),
    ):
        words = ["predict", world.forest, "--client", "root", tmp_path / name]
        assert reason in refused(tmp_path, *words)


def test_a_flipped_byte_is_found_wherever_it_lies(
    forest: Path, tmp_path: Path, picture: Path
) -> None:
    client = seen_client(forest)
    leaf = Forest.load(forest).client(client).leaf
    assert leaf is not None
    words = ["predict", forest, "--client", client, picture]
    for path in (forest / "objects" / leaf, forest / "versions" / "1.json", forest / "current"):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 2):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert path.name in refused(tmp_path, *words)
            export = ["forest", "export", forest, "--client", client, "--peft", tmp_path / "out"]
            assert path.name in refused(tmp_path, *export)
        path.write_bytes(whole)
    done(*words)


def test_verify_tells_which_object_has_a_flipped_byte(forest: Path) -> None:
    root = Forest.load(forest).manifest.root
    path = forest / "objects" / root
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    line = refused(forest, "forest", "verify", forest)
    assert root in line and "digest" in line and "restore it from a copy" in line
    result = silva("forest", "verify", forest)
    assert "sound" not in result.stdout and root not in result.stdout


def test_a_client_name_that_leaves_the_folder(forest: Path, tmp_path: Path, picture: Path) -> None:
    data = client_data(tmp_path / "new.npz")
    peft = tmp_path / "peft"
    for words in (
        ["predict", forest, picture, "--client", "../evil"],
        ["forest", "add", forest, "--data", data, "--client", "../evil"],
        ["forest", "remove", forest, "../evil"],
        ["forest", "export", forest, "--peft", peft, "--client", "../evil"],
    ):
        assert "'../evil'" in refused(tmp_path, *words)
    for reserved in ("root", "base", "cluster-9", "New", "a/b"):
        words = ["forest", "add", forest, "--data", data, "--client", reserved]
        assert "client name" in refused(tmp_path, *words)


def test_classes_that_the_forest_does_not_know(forest: Path, tmp_path: Path) -> None:
    data = client_data(tmp_path / "new.npz", ("ant", "elk", "cow", "dog"))
    words = ["forest", "add", forest, "--client", "new-1", "--data", data]
    assert "does not know (first 'elk')" in refused(tmp_path, *words)


def test_classes_in_another_order_are_matched_by_name(forest: Path, tmp_path: Path) -> None:
    plain = ["forest", "add", forest, "--client", "new-1", "--json", "--data"]
    one = done(*plain, client_data(tmp_path / "one.npz"))
    done("forest", "rollback", forest, "--to", 1)
    arrays = dict(tiny.np.load(tmp_path / "one.npz"))
    arrays["label"] = 3 - arrays["label"]
    arrays["class_names"] = arrays["class_names"][::-1]
    tiny.np.savez(tmp_path / "two.npz", **arrays)
    other = done(*plain, tmp_path / "two.npz")
    assert one.replace('"version": 2', "") == other.replace('"version": 3', "")


def test_an_adapter_of_other_classes(forest: Path, tmp_path: Path) -> None:
    done("forest", "export", forest, "--tier", "root", "--peft", tmp_path / "root")
    weights = tmp_path / "root" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"ant", b"elk"))
    words = ["forest", "import", forest, "--client", "new-1", "--peft", tmp_path / "root"]
    assert "other classes" in refused(tmp_path, *words)


def test_what_is_no_forest(tmp_path: Path, picture: Path) -> None:
    for name in ("absent", ".", "picture.png", "x" * 300):
        for words in (
            ["forest", "show", tmp_path / name],
            ["forest", "verify", tmp_path / name],
            ["predict", tmp_path / name, "--client", "root", picture],
        ):
            assert "is not a forest" in refused(tmp_path, *words)


def test_nothing_is_left_in_the_folder_of_the_forest(world: World) -> None:
    names = {name.split("/")[0] for name in listing(world.forest)}
    assert names == {"current", "objects", "report", "versions"}

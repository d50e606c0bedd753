"""The command line in this process, and the tiny federation as the files it takes."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parents[1] / "federation"))
import tiny

from silva.adapters.forest import Forest
from silva.cli.main import make_app

DATA = {
    "partition": "patho_grouped(2)",
    "clients": 8,
    "unseen": 0.25,
    "samples_per_client": 12,
    "test_per_client": 6,
}


@dataclass(frozen=True)
class World:
    """Files of the tiny federation, the forest they grew and what the command printed."""

    folder: Path
    vit: Path
    data: Path
    recipe: Path
    forest: Path
    output: str

    def words(self, out: Path, **flags: object) -> list[object]:
        """`silva tune` of the recipe; flags add to it: rounds=3 for --rounds 3."""
        given: dict[str, object] = {"data": self.data, "backbone": self.vit, **flags}
        pairs = [(f"--{name.replace('_', '-')}", value) for name, value in given.items()]
        return ["tune", "--config", self.recipe, "--out", out, *(w for p in pairs for w in p)]


def silva(*words: object) -> Result:
    """Run a command; exit code and both outputs are in the result."""
    return CliRunner().invoke(make_app(), [str(word) for word in words])


def done(*words: object) -> str:
    """What a command that must succeed prints."""
    result = silva(*words)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def refused(folder: Path, *words: object) -> str:
    """The one line of a command that must fail by the user's mistake and change no file."""
    before = listing(folder)
    result = silva(*words)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stderr.startswith("silva: error: ") and result.stderr.count("\n") == 1
    what, _, remedy = result.stderr.rpartition("; ")
    assert what and remedy.strip(), result.stderr
    assert listing(folder) == before
    return result.stderr


def listing(folder: Path) -> dict[str, str]:
    """Every path below a folder, with a digest of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def toml(settings: dict[str, Any]) -> str:
    """Nested settings as TOML; values are numbers, words and lists of them."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += [f"{name}.{line}" for line in toml(value).splitlines()]
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines)


def make_world(folder: Path) -> World:
    """Grow the tiny federation's forest with `silva tune`."""
    recipe = folder / "run.toml"
    recipe.write_text(toml({"data": DATA, "federation": tiny.SETTINGS, "seed": 1}))
    vit, data = tiny.save_backbone(folder / "vit"), tiny.save_data(folder / "data.npz")
    world = World(folder, vit, data, recipe, folder / "forest", "")
    words = world.words(world.forest, seed=3)
    output = done(*words, "--set", "federation.probe_steps=4", "--set", "federation.head=tiered")
    return World(folder, vit, data, recipe, world.forest, output)


def digests(forest: Path) -> dict[str, Any]:
    """All that a forest says of its objects: equal digests mean equal tensors."""
    manifest = Forest.load(forest).manifest
    clients = {name: (c.cluster, c.leaf, c.accuracy) for name, c in manifest.clients.items()}
    clusters = {name: (c.object, c.signature) for name, c in manifest.clusters.items()}
    return {"root": manifest.root, "clusters": clusters, "clients": clients}


def seen_client(forest: Path) -> str:
    """A client with a whole path: root, cluster, leaf."""
    loaded = Forest.load(forest)
    return next(n for n in loaded.clients if loaded.client(n).leaf and loaded.client(n).cluster)


def client_data(path: Path, classes: tuple[str, ...] = tiny.CLASSES) -> Path:
    """Images of one more client: ten each of two classes, a quarter of them for testing."""
    arrays = tiny.arrays()
    rows = [*range(10), *range(80, 90)]
    split = [int(n % 4 == 3) for n in range(len(rows))]
    tables = {"images": arrays["images"][rows], "label": arrays["label"][rows]}
    tiny.np.savez(path, **tables, split=tiny.np.uint8(split), class_names=tiny.np.array(classes))
    return path

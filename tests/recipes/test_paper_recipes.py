"""Every recipe of the paper runs on random weights and generated files of the real formats."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from silva.adapters.forest import Forest
from silva.cli.main import make_app
from silva.config import read_toml

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
CIFAR = ("cifar100-gl-dir", "cifar100-sc-dir", "cifar100-patho")
DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
CLASSES = {"airplane": 1, "zebra": 343, "aircraft_carrier": 0}
HIDDEN, LAYERS, SIDE, PATCH = 24, 2, 32, 16
CLIENTS = 6
CONFIG = {
    "architectures": ["ViTModel"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": HIDDEN,
    "image_size": SIDE,
    "initializer_range": 0.02,
    "intermediate_size": 4 * HIDDEN,
    "layer_norm_eps": 1e-12,
    "model_type": "vit",
    "num_attention_heads": 3,
    "num_channels": 3,
    "num_hidden_layers": LAYERS,
    "patch_size": PATCH,
    "qkv_bias": True,
}
PREPROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": SIDE,
}


def vit_in21k(folder: Path) -> Path:
    """A directory like google/vit-base-patch16-224-in21k, the same files and names, but tiny."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * 0.2

    wide = 4 * HIDDEN
    linear = {
        "attention.attention.query": (HIDDEN, HIDDEN),
        "attention.attention.key": (HIDDEN, HIDDEN),
        "attention.attention.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (wide, HIDDEN),
        "output.dense": (HIDDEN, wide),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embeddings.projection": (HIDDEN, 3, PATCH, PATCH),
        "pooler.dense": (HIDDEN, HIDDEN),
    }
    for layer in range(LAYERS):
        shapes |= {f"encoder.layer.{layer}.{name}": shape for name, shape in linear.items()}
    norms = [f"encoder.layer.{n}.layernorm_{w}" for n in range(LAYERS) for w in ("before", "after")]
    tensors = {
        "embeddings.cls_token": draw(1, 1, HIDDEN),
        "embeddings.position_embeddings": draw(1, (SIDE // PATCH) ** 2 + 1, HIDDEN),
    }
    for name, shape in shapes.items():
        tensors |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
    for name in [*norms, "layernorm"]:
        tensors |= {f"{name}.weight": torch.ones(HIDDEN), f"{name}.bias": torch.zeros(HIDDEN)}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    (folder / "pytorch_model.bin").write_bytes(b"not for silva")
    return folder


def cifar_archive(path: Path) -> Path:
    """A python archive with the 100 classes and 20 superclasses of CIFAR-100, few images each."""
    rng = np.random.default_rng(0)
    tables: dict[str, Any] = {}
    for name, each in (("train", 6), ("test", 2)):
        fine = np.repeat(np.arange(100), each)
        noise = rng.integers(0, 120, (len(fine), 3072))
        data = (noise + 20 * (fine[:, None] % 7)).astype(np.uint8)
        tables[name] = {
            b"filenames": [b"x.png"] * len(fine),
            b"batch_label": b"generated",
            b"fine_labels": fine.tolist(),
            b"coarse_labels": (fine // 5).tolist(),
            b"data": data,
        }
    tables["meta"] = {
        b"fine_label_names": [b"class %d" % n for n in range(100)],
        b"coarse_label_names": [b"family %d" % n for n in range(20)],
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, table in tables.items():
            text = pickle.dumps(table, 2)
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return path


def domainnet_top10(folder: Path) -> Path:
    """Lists of some classes beside links to the domains' folders, as the recipe's header says."""
    rng = np.random.default_rng(0)
    unpacked, folder = folder / "DomainNet", folder / "domainnet-top10"
    folder.mkdir()
    for domain in DOMAINS:
        for side, count in (("train", 4), ("test", 2)):
            lines = []
            for name, label in CLASSES.items():
                (unpacked / domain / name).mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    path = f"{domain}/{name}/{domain}_{side}_{number:06d}.jpg"
                    pixels = rng.integers(0, 200, (30, 40, 3), dtype=np.uint8) + label % 50
                    Image.fromarray(pixels.astype(np.uint8)).save(unpacked / path)
                    lines.append(f"{path} {label}\n")
            (folder / f"{domain}_{side}.txt").write_text("".join(lines))
        (folder / domain).symlink_to(unpacked / domain)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("paper")
    return {
        "vit": vit_in21k(folder / "vit-base-patch16-224-in21k"),
        "cifar": cifar_archive(folder / "cifar-100-python.tar.gz"),
        "domainnet": domainnet_top10(folder),
    }


def run(recipe: str, data: Path, vit: Path, out: Path) -> dict[str, Any]:
    """Run a recipe with nothing changed but sizes, rounds, device and backbone; its report."""
    words = ["tune", "--config", RECIPES / f"{recipe}.toml", "--data", data, "--backbone", vit]
    sizes = ["--clients", CLIENTS, "--test-per-client", 10, "--rounds", 3, "--device", "cpu"]
    result = CliRunner().invoke(make_app(), [str(w) for w in (*words, *sizes, "--out", out)])
    assert result.exit_code == 0, (result.output, result.exception)
    report: dict[str, Any] = json.loads((out / "report" / "run.json").read_text())
    return report


def check(recipe: str, out: Path, report: dict[str, Any]) -> None:
    """The forest is whole and was grown as the recipe says."""
    forest, written = Forest.load(out), read_toml(RECIPES / f"{recipe}.toml")
    assert len(forest.clients) == CLIENTS
    assert sum(not forest.client(name).seen for name in forest.clients) == 1
    assert forest.verify().sound
    config = report["config"]
    assert config["data"]["partition"] == written["data"]["partition"]
    assert config["data"]["unseen"] == written["data"]["unseen"]
    assert config["federation"]["controls"] == written["federation"]["controls"]
    assert config["federation"]["local"]["epochs"] == written["federation"]["local"]["epochs"]
    summary = json.loads((out / "report" / "summary.json").read_text())
    assert summary["tiers"]["root"]["mean"] is not None
    assert summary["tiers"]["leaf"]["mean"] is not None
    assert set(written["federation"]["controls"]) <= set(summary["control"])
    assert summary["unseen"]["after_5"] is not None


def test_there_is_a_test_for_every_recipe() -> None:
    assert {path.stem for path in RECIPES.glob("*.toml")} == {*CIFAR, "domainnet"}


@pytest.mark.parametrize("recipe", CIFAR)
def test_cifar_100_runs_from_the_python_archive(
    recipe: str, files: dict[str, Path], tmp_path: Path
) -> None:
    report = run(recipe, files["cifar"], files["vit"], tmp_path / "forest")
    check(recipe, tmp_path / "forest", report)
    assert len(Forest.load(tmp_path / "forest").class_names) == 100


def test_domainnet_runs_from_lists_and_linked_folders(
    files: dict[str, Path], tmp_path: Path
) -> None:
    report = run("domainnet", files["domainnet"], files["vit"], tmp_path / "forest")
    check("domainnet", tmp_path / "forest", report)
    assert set(Forest.load(tmp_path / "forest").class_names) == set(CLASSES)


@pytest.mark.parametrize("recipe", [*CIFAR, "domainnet"])
def test_recipes_of_the_paper_ask_for_its_backbone_on_an_accelerator(recipe: str) -> None:
    written = read_toml(RECIPES / f"{recipe}.toml")
    assert written["backbone"] == "vit-base-patch16-224-in21k"
    assert written["device"].startswith("cuda")

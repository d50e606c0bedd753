"""`tune` and `resume`: from a configuration to a forest on disk, through a folder that survives kills.

settings.json, partition/    written once, before the first round; with digests of backbone and data
state.json and its tensors   written after every round (`silva.federation.state`)
the forest                   written whole at the end; then the run's folder is removed
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from silva.adapters.forest import Forest
from silva.config import as_plain, build, setting
from silva.data.config import DataConfig
from silva.data.embedded import NAMES
from silva.data.nouns import Dataset, Partition
from silva.data.open import open_dataset
from silva.data.partition import load_partition, save_partition
from silva.errors import ConfigError, ForestError, RunError
from silva.federation.assembly import deal, make_run
from silva.federation.cascade import grow
from silva.federation.clustering import refuse_impossible
from silva.federation.config import FederationConfig
from silva.federation.device import usable_device
from silva.federation.harvest import check_harvest, harvest
from silva.federation.material import Material, image_material
from silva.federation.opening import open_language, text_material
from silva.federation.record import RunFacts
from silva.federation.report import write_report
from silva.federation.run import Progress
from silva.federation.state import RunFolder, RunState
from silva.federation.state_files import alone
from silva.models.fetch import KNOWN
from silva.models.kinds import SHIPPED
from silva.models.registry import is_language_model, load_backbone
from silva.models.threads import one_thread_each

SHARES = {"root": 0.3, "cluster": 0.4, "leaf": 0.3}
"""How the rounds are divided among the tiers that name no number of their own."""


@dataclass(frozen=True)
class TuneConfig:
    """One tuning run, whole: data, backbone, method."""

    backbone: str = setting(
        "silva-vit-tiny",
        help="a shipped name or a Hugging Face ViT directory; for texts smollm2, or a "
        "directory of a Llama- or DeepSeek-shaped model, or a GGUF file",
    )
    seed: int = setting(0, low=0, high=2**31, help="decides every random draw")
    threads: int = setting(
        0, low=0, high=1024, help="clients that work side by side; 0: one a core"
    )
    device: str = setting("cpu", help="torch device of the model, e.g. cpu or cuda:0")
    data: DataConfig = field(default_factory=DataConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)


def tune(
    config: TuneConfig, out: Path, on_progress: Callable[[Progress], None] = lambda p: None
) -> Forest:
    """Grow a forest at `out` with its report in `out/report`.

    Raises a SilvaError before anything is written when data, model, partition or `out` are not
    usable. A run that is interrupted leaves `<out>.run` beside it, from which `resume` goes on.
    """
    refuse_existing(out)
    config = replace(config, federation=with_rounds(config.federation))
    material = _open(config)
    dataset = material.dataset
    config = replace(config, federation=material.task.settled(config.federation))
    config = replace(config, data=replace(config.data, path=dataset.origin or config.data.path))
    check_harvest(material)
    # Before the first progress: what is shown until then says that data are being read.
    about = {"backbone": material.base.digest, "data": dataset.digest()}
    partition = deal(config.data, config.seed, dataset, on_progress)
    refuse_impossible(config.federation.clustering, len(partition.seen))
    folder = RunFolder(run_folder(out), [c.name for c in partition.clients])
    folder.create({"config": as_plain(_anywhere(config)), **about})
    with alone(folder.path):
        state = _first_state(folder, partition, dataset)
        return _finish(config, out, material, partition, folder, state, on_progress)


def resume(out: Path, on_progress: Callable[[Progress], None] = lambda p: None) -> Forest:
    """Go on with the run that was to grow `out`; ends with the same objects, digest for digest."""
    path = run_folder(out)
    if path.is_dir() and not (path / "settings.json").exists() and (out / "current").exists():
        shutil.rmtree(path)  # killed while it was tidying up
        return Forest.load(out)
    settings = _settings(path)
    try:
        config = build(TuneConfig, settings["config"], str(path / "settings.json"))
    except ConfigError as error:  # silva wrote them itself, with names that have changed since
        raise RunError(
            f"the run was begun by another version of silva ({error.where}: {error.what})",
            where=path,
            remedy="remove the folder and start again",
        ) from error
    material = _open(config)
    dataset = material.dataset
    if material.base.digest != settings["backbone"]:
        raise RunError(
            f"the backbone {config.backbone} is not the one the run started with",
            where=path,
            remedy="restore its weights, or start a new run",
        )
    if settings["data"] and settings["data"] != dataset.digest():
        raise RunError(
            f"the {dataset.unit} or labels of {config.data.path} are not those the run started with",
            where=path,
            remedy="restore them, or start a new run",
        )
    begun = (path / "state.json").exists()
    partition = (
        load_partition(path / "partition", dataset)
        if begun
        else deal(config.data, config.seed, dataset, on_progress)
    )
    folder = RunFolder(path, [c.name for c in partition.clients])
    with alone(path):
        state = folder.load() if begun else _first_state(folder, partition, dataset)
        _refuse_another(out, state)
        return _finish(config, out, material, partition, folder, state, on_progress)


def _anywhere(config: TuneConfig) -> TuneConfig:
    """`config` with absolute paths, so that a run can be resumed from another folder."""

    def absolute(path: str, names: tuple[str, ...]) -> str:
        path = path if path in names else os.path.expanduser(path)
        return os.path.abspath(path) if path not in names and os.path.exists(path) else path

    data = replace(config.data, path=absolute(config.data.path, NAMES))
    return replace(config, backbone=absolute(config.backbone, (*SHIPPED, *KNOWN)), data=data)


def run_folder(out: Path) -> Path:
    """Where the unfinished run of a forest lies: beside it."""
    return out.with_name(out.name + ".run")


def refuse_existing(out: Path) -> None:
    """ForestError when something lies at `out` already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ForestError("already exists", where=out, remedy="choose another --out")


def _refuse_another(out: Path, state: RunState) -> None:
    """ForestError where a forest stands at `out` that is not the one this run was writing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    mine = False
    if state.stage == "done" and state.root is not None and (out / "current").exists():
        (there,) = Forest.load(out).path("root").tiers
        mine = there.pairs.keys() == state.root.pairs.keys() and all(
            torch.equal(there.pairs[n].B, p.B) and torch.equal(there.pairs[n].A, p.A)
            for n, p in state.root.pairs.items()
        )
    if not mine:
        raise ForestError(
            "something else lies where the run's forest is to stand",
            where=out,
            remedy="move it away; the run stays beside it, to be resumed",
        )


def with_rounds(config: FederationConfig) -> FederationConfig:
    """`config` with a number of rounds for every tier: its own, or a share of what is left.

    Tiers that name none divide what the others leave of `rounds`, by `SHARES` and largest remainder,
    and get one at least. Raises RunError where nothing is left for one.
    """
    rounds = {tier: getattr(config, tier).rounds for tier in SHARES}
    free = [tier for tier, own in rounds.items() if not own]
    left = config.rounds - sum(rounds.values())
    if free and left < len(free):
        raise RunError(
            f"{config.rounds} rounds are too few for all tiers: {', '.join(free)} would have none",
            where="federation.rounds",
            remedy=f"choose {config.rounds - left + len(free)} or more",
        )
    quotas = {tier: left * SHARES[tier] / sum(SHARES[t] for t in free) for tier in free}
    rounds |= {tier: max(1, int(quota + 1e-9)) for tier, quota in quotas.items()}
    for tier in sorted(free, key=lambda t: int(quotas[t]) - quotas[t]):
        rounds[tier] += sum(rounds[t] for t in free) < left
    tiers = {tier: replace(getattr(config, tier), rounds=n) for tier, n in rounds.items()}
    return replace(config, rounds=sum(rounds.values()), **tiers)


def _first_state(folder: RunFolder, partition: Partition, dataset: Dataset) -> RunState:
    """Partition and first checkpoint on disk: from here on the run can be resumed mid-way."""
    save_partition(partition, dataset, folder.path / "partition")
    state = RunState()
    folder.save(state)
    return state


def _finish(
    config: TuneConfig,
    out: Path,
    material: Material,
    partition: Partition,
    folder: RunFolder,
    state: RunState,
    on_progress: Callable[[Progress], None],
) -> Forest:
    """Grow what is left, write forest and report, and only then let go of the run's folder."""
    # On an accelerator clients would only take turns.
    lanes = torch.get_num_threads() if usable_device(config.device).type == "cpu" else 1
    with one_thread_each(lanes) as pool:
        run = make_run(
            config.federation,
            config.seed,
            material,
            partition,
            folder,
            state,
            on_progress=on_progress,
            pool=pool,
            lanes=lanes,
        )
        grow(run)
    if not (out / "current").exists():
        harvest(run, out, material)
    write_report(
        state.record,
        _facts(config, material.dataset),
        out / "report",
        lambda drawn, total: on_progress(Progress("report", drawn, total)),
    )
    save_partition(partition, material.dataset, out / "report")
    # Without its settings a folder is no run: what a kill leaves of it is rubbish.
    (folder.path / "settings.json").unlink()
    shutil.rmtree(folder.path)
    return Forest.load(out)


def _open_texts(config: TuneConfig, device: torch.device) -> Material:
    """The same of a language model, in windows of texts."""
    data = config.data
    if device.type != "cpu":
        raise ConfigError(
            f"language models are tuned on the CPU, not on {config.device[:40]!r}",
            where="device",
            remedy="leave it out",
        )
    model = open_language(config.backbone)
    return text_material(*model, data.path, data.window, split=data.split, labels=data.labels)


def _facts(config: TuneConfig, dataset: Dataset) -> RunFacts:
    import numpy
    import safetensors

    import silva

    versions = {
        "silva": silva.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "safetensors": safetensors.__version__,
        "python": platform.python_version(),
    }
    return RunFacts(
        config=as_plain(config),
        seed=config.seed,
        versions=versions,
        threads=torch.get_num_threads(),
        machine=f"{platform.machine()}, {platform.system()}",
        data=dataset.title,
        partition=config.data.partition,
    )


def _settings(path: Path) -> dict[str, Any]:
    """What `tune` wrote; the digest of the data is "" in runs from before it was kept."""
    try:
        settings = json.loads((path / "settings.json").read_text())
        about = {name: settings[name] for name in ("config", "backbone")}
        return {**about, "data": settings.get("data", "")}
    except FileNotFoundError as error:
        raise RunError(
            "no unfinished run lies here", where=path, remedy="start one without --resume"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            "the run's settings are damaged", where=path, remedy="remove the folder, start again"
        ) from error


def _open(config: TuneConfig) -> Material:
    """The run's model where it will compute, with the threads it may use, and its data."""
    device, data = usable_device(config.device), config.data
    if config.threads:
        torch.set_num_threads(config.threads)
    if is_language_model(config.backbone):
        return _open_texts(config, device)
    backbone = load_backbone(config.backbone)
    backbone.model.to(device)
    return image_material(backbone, open_dataset(data.path, split=data.split, labels=data.labels))

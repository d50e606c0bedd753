"""PEFT directories: `adapter_config.json` and `adapter_model.safetensors`, out and in.

Stock PEFT refuses heads in two active adapters, and warns only when tensor names do not match the
model, which then answers as the base. So a path is written as one adapter of the summed rank with
the last tier's head, and on import key sets are compared both ways.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silva.adapters.codec import check_tier
from silva.adapters.files import (
    canonical_json,
    fresh_folder,
    parse_json,
    read_limited,
    write_atomic,
)
from silva.adapters.module_map import LAYOUTS, Layout, from_transformers, to_transformers
from silva.adapters.objects import MAX_OBJECT_BYTES, decode_tensors, encode_tensors
from silva.adapters.peft_config import PeftSettings, parse_settings
from silva.adapters.tiers import AdapterPath, Head, LoraPair, Tier, TierName
from silva.errors import ForestError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_HEAD = {"weight": f"{_PREFIX}classifier.weight", "bias": f"{_PREFIX}classifier.bias"}
_MAX_CONFIG_BYTES = 1 << 22


def export_peft(
    adapter: Tier | AdapterPath,
    folder: Path | str,
    *,
    base_id: str,
    class_names: Sequence[str],
    head: bool = True,
    layout: Layout = "hf5",
) -> None:
    """Write a tier, or a whole path as one adapter of the summed rank, as a PEFT directory.

    base_id  the model that PEFT is told to load; class_names go into the file's metadata
    head     whether the (last) tier's head goes along; of several active adapters one may have it,
             and tiers of a language model have none

    Nothing is lost: `import_peft` gives back the same tensors. Raises ForestError when `folder`
    exists and is not empty.
    """
    tier = adapter.flattened() if isinstance(adapter, AdapterPath) else adapter
    check_tier(tier, folder)
    head = head and tier.head.classes > 0
    names = {module: to_transformers(module, layout) for module in sorted(tier.pairs)}
    tensors: dict[str, Tensor] = {}
    for module, name in names.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = tier.pairs[module].A
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = tier.pairs[module].B
    if head:
        tensors |= {_HEAD["weight"]: tier.head.weight, _HEAD["bias"]: tier.head.bias}
    about = {
        "base": base_id,
        "classes": list(class_names),
        "modules": LAYOUTS[layout],
        "tiers": [t.name for t in adapter.tiers]
        if isinstance(adapter, AdapterPath)
        else [tier.name],
    }
    metadata = {"format": "pt", "silva": canonical_json(about).decode()}
    config = _config(tier, names, base_id, head)
    with fresh_folder(Path(folder)) as building:
        write_atomic(building / WEIGHTS, encode_tensors(tensors, metadata))
        write_atomic(building / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def export_stack(
    path: AdapterPath,
    folder: Path | str,
    *,
    base_id: str,
    class_names: Sequence[str],
    layout: Layout = "hf5",
) -> list[str]:
    """Write each tier of a path to a PEFT directory of its own below `folder`; return their names.

    Only the last has a head, so that PEFT can activate all of them together. The names cannot be
    those of modules, which PEFT would confuse with adapters.
    """
    names = [f"tier-{tier.name}" for tier in path.tiers]
    with fresh_folder(Path(folder)) as building:
        for tier, name in zip(path.tiers, names, strict=True):
            export_peft(
                tier,
                building / name,
                base_id=base_id,
                class_names=class_names,
                head=tier is path.tiers[-1],
                layout=layout,
            )
    return names


def _config(tier: Tier, names: dict[str, str], base_id: str, head: bool) -> dict[str, Any]:
    ranks = {name: tier.pairs[module].rank for module, name in names.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    unusual = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "base_model_name_or_path": base_id,
        "bias": "none",
        "inference_mode": True,
        # PEFT scales by alpha / rank of the module, so alpha goes where the rank goes.
        "alpha_pattern": {name: tier.scaling * rank for name, rank in unusual.items()},
        "rank_pattern": unusual,
        "lora_alpha": tier.scaling * usual,
        "lora_dropout": 0.0,
        "modules_to_save": ["classifier"] if head else None,
        "peft_type": "LORA",
        "r": usual,
        "target_modules": list(names.values()),
        "task_type": None if tier.head.classes else "CAUSAL_LM",
        "use_rslora": False,
    }


def import_peft(
    folder: Path | str,
    *,
    name: TierName = "leaf",
    head: Head | None = None,
    class_names: Sequence[str] | None = None,
    modules: Collection[str] | None = None,
) -> Tier:
    """Read a PEFT directory of a Vision Transformer or language model as one tier called `name`.

    head         used when the file has none; the file's own head goes first
    class_names  compared with those that silva wrote into the file, if it did
    modules      silva's names of the modules that must be adapted, all and no others

    Names of transformers 4 and 5 are read; pairs whose scaling differs from the usual one have it
    folded into B. Raises ForestError for what is not plain LoRA, for tensors that do not match the
    settings, and for pickled weights, which are never opened.
    """
    folder = Path(folder)
    settings = parse_settings(read_limited(folder / CONFIG, _MAX_CONFIG_BYTES), folder / CONFIG)
    where = folder / WEIGHTS
    tensors, metadata = _weights(folder)
    if class_names is not None:
        _check_classes(metadata, class_names, where)
    own = _take_head(tensors, settings, where)
    tier_head = own or head
    if tier_head is None:
        raise ForestError("has no classifier", where=where, remedy="give a head to go with it")
    found = _pair_names(tensors, where)
    settings.check_targets(sorted(found), where)
    pairs: dict[str, LoraPair] = {}
    scaling = settings.scaling_of("", settings.rank)
    for peft_name in sorted(found):
        pair = LoraPair(
            B=tensors[f"{_PREFIX}{peft_name}.lora_B.weight"],
            A=tensors[f"{_PREFIX}{peft_name}.lora_A.weight"],
        )
        module = from_transformers(peft_name, where)
        if module in pairs:
            raise ForestError(f"module {module!r} occurs twice", where=where)
        pairs[module] = _scaled(pair, settings, peft_name, scaling, where)
    tier = Tier(name=name, pairs=pairs, head=tier_head, scaling=scaling)
    check_tier(tier, where)
    if modules is not None and set(modules) != set(pairs):
        odd = sorted(set(modules) ^ set(pairs))
        text = f"adapts other modules than the forest, which differ in {', '.join(odd[:3])}"
        raise ForestError(text, where=where, remedy="train the adapter on the same modules")
    return tier


def fit_tier(tier: Tier, rank: int, scaling: float) -> Tier:
    """The same updates with `rank` and `scaling`: zeros are appended, the scaling goes into B.

    Raises ForestError for a pair of a greater rank, which would lose something.
    """
    if scaling == 0.0:
        raise ForestError("the forest's scaling is 0")
    pairs = {}
    for module, pair in tier.pairs.items():
        if pair.rank > rank:
            raise ForestError(
                f"pair {module!r} has rank {pair.rank}, the forest {rank}",
                remedy="import one tier, or a whole path that begins with this forest's root and "
                "cluster, or train it with a smaller rank",
            )
        spans = pair.B if tier.scaling == scaling else pair.B * (tier.scaling / scaling)
        more = rank - pair.rank
        pairs[module] = LoraPair(
            B=torch.cat([spans, spans.new_zeros(len(spans), more)], dim=1),
            A=torch.cat([pair.A, pair.A.new_zeros(more, pair.A.shape[1])]),
        )
    return Tier(tier.name, pairs, tier.head, scaling)


def _weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    path = folder / WEIGHTS
    if not path.exists() and (folder / "adapter_model.bin").exists():
        raise ForestError(
            "is pickled, which may run code when it is opened",
            where=folder / "adapter_model.bin",
            remedy="save the adapter again with PEFT's save_pretrained (safetensors)",
        )
    return decode_tensors(read_limited(path, MAX_OBJECT_BYTES), path)


def _check_classes(metadata: dict[str, str], class_names: Sequence[str], where: Path) -> None:
    if "silva" not in metadata:
        return
    about = parse_json(metadata["silva"].encode("utf-8", "replace"), where)
    if not isinstance(about, dict) or about.get("classes") != list(class_names):
        remedy = "import it into a forest of the same classes in the same order"
        raise ForestError("was made for other classes", where=where, remedy=remedy)


def _take_head(tensors: dict[str, Tensor], settings: PeftSettings, where: Path) -> Head | None:
    present = [key for key in _HEAD.values() if key in tensors]
    if bool(present) != settings.has_head or len(present) == 1:
        text = "classifier and `modules_to_save` do not agree"
        raise ForestError(text, where=where, remedy="save the adapter again with PEFT")
    if not present:
        return None
    return Head(weight=tensors.pop(_HEAD["weight"]), bias=tensors.pop(_HEAD["bias"]))


def _pair_names(tensors: dict[str, Tensor], where: Path) -> set[str]:
    """Module names that have both an A and a B; ForestError for any other key."""
    halves: dict[str, set[str]] = {"A": set(), "B": set()}
    for key in tensors:
        for half, names in halves.items():
            suffix = f".lora_{half}.weight"
            if key.startswith(_PREFIX) and key.endswith(suffix):
                names.add(key[len(_PREFIX) : -len(suffix)])
                break
        else:
            raise ForestError(f"tensor {key[:120]!r} is not part of a plain LoRA", where=where)
    if halves["A"] != halves["B"]:
        lone = sorted(halves["A"] ^ halves["B"])[0]
        raise ForestError(f"module {lone[:120]!r} has only one of A and B", where=where)
    if not halves["A"]:
        raise ForestError("holds no LoRA pair", where=where)
    return halves["A"]


def _scaled(
    pair: LoraPair, settings: PeftSettings, peft_name: str, usual: float, where: Path
) -> LoraPair:
    rank = settings.rank_of(peft_name)
    if pair.A.ndim != 2 or pair.rank != rank:
        text = f"{peft_name[:120]!r} has A of shape {list(pair.A.shape)}, the settings rank {rank}"
        raise ForestError(text, where=where)
    scaling = settings.scaling_of(peft_name, rank)
    if math.isclose(scaling, usual, rel_tol=1e-12):
        return pair
    if usual == 0.0:
        raise ForestError("lora_alpha is 0 for some modules only", where=where)
    return LoraPair(B=pair.B * (scaling / usual), A=pair.A)

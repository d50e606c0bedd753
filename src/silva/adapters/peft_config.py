"""`adapter_config.json`: what silva understands of it, and a refusal for all the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from silva.adapters.files import parse_json
from silva.errors import ForestError

_LITERAL = re.compile(r"[A-Za-z0-9_.]{1,200}")
_HEADS = {"classifier", "score"}
_MAX_RANK, _MAX_NAMES = 65_536, 100_000
_INERT = {
    # Read here.
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "bias",
    "target_modules", "modules_to_save", "init_lora_weights",
    # Say where an adapter comes from or how it was trained; its tensors mean the same.
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "task_type", "loftq_config", "corda_config", "lora_ga_config",
}  # fmt: skip
# These initialisations change the base weights, which the adapter then does not fit.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

V = TypeVar("V", int, float)


@dataclass(frozen=True)
class PeftSettings:
    """Ranks and scalings by module, and whether a classifier belongs to the file.

    targets is None where the file names them by a regular expression: a stranger's expression is
    never run.
    """

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...] | None
    has_head: bool

    def rank_of(self, module: str) -> int:
        return _match(self.rank_pattern, module, self.rank)

    def scaling_of(self, module: str, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank) with rslora."""
        alpha = _match(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def check_targets(self, modules: Sequence[str], where: object) -> None:
        """ForestError unless every tensor is a target's and every target has a tensor."""
        if self.targets is None:
            return
        used = set()
        for module in modules:
            hits = {suffix for suffix in _suffixes(module) if suffix in set(self.targets)}
            if not hits:
                text = f"module {module[:120]!r} is not among target_modules"
                raise ForestError(text, where=where)
            used |= hits
        if idle := sorted(set(self.targets) - used):
            text = f"target module {idle[0][:120]!r} has no tensors"
            raise ForestError(text, where=where, remedy="the adapter was saved incompletely")


def parse_settings(data: bytes, where: object) -> PeftSettings:
    """Check an adapter_config.json; ForestError for anything but plain LoRA on linear layers."""
    plain = parse_json(data, where)
    if not isinstance(plain, dict):
        raise ForestError("must be a JSON object", where=where)
    if plain.get("peft_type") != "LORA":
        kind = str(plain.get("peft_type"))[:40]
        raise ForestError(f"is of type {kind}", where=where, remedy="only LORA can be imported")
    _refuse_extras(plain, where)
    ranks = _pattern(plain, "rank_pattern", where)
    alphas = _pattern(plain, "alpha_pattern", where)
    return PeftSettings(
        rank=_rank(plain.get("r", 8), "r", where),
        alpha=_alpha(plain.get("lora_alpha", 8), "lora_alpha", where),
        rslora=_flag(plain.get("use_rslora", False), "use_rslora", where),
        rank_pattern={k: _rank(v, "rank_pattern", where) for k, v in ranks.items()},
        alpha_pattern={k: _alpha(v, "alpha_pattern", where) for k, v in alphas.items()},
        targets=_targets(plain.get("target_modules"), where),
        has_head=_has_head(plain.get("modules_to_save"), where),
    )


def _refuse_extras(plain: dict[str, Any], where: object) -> None:
    if plain.get("bias", "none") != "none":
        remedy = "train with bias='none'"
        raise ForestError("adapts biases, which a tier does not hold", where=where, remedy=remedy)
    start = plain.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGE_BASE):
        remedy = "convert it with PEFT's path_initial_model_for_weight_conversion"
        raise ForestError(f"{start[:40]!r} changed the base weights", where=where, remedy=remedy)
    extras = sorted(str(key) for key, value in plain.items() if value and key not in _INERT)
    if extras:
        remedy = "only plain LoRA can be imported"
        raise ForestError(f"sets {extras[0][:80]!r}", where=where, remedy=remedy)


def _targets(value: Any, where: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return None
    if not _is_names(value) or not value:
        raise ForestError("target_modules must be a list of names", where=where)
    return tuple(value)


def _has_head(value: Any, where: object) -> bool:
    if value is None or value == []:
        return False
    if not _is_names(value) or not set(value) <= _HEADS or "classifier" not in value:
        text = f"saves the modules {str(value)[:80]}"
        raise ForestError(text, where=where, remedy="only a classifier can go with the pairs")
    return True


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_NAMES
        and all(isinstance(name, str) and 0 < len(name) <= 200 for name in value)
    )


def _pattern(plain: dict[str, Any], key: str, where: object) -> dict[str, Any]:
    value = plain.get(key) or {}
    if not isinstance(value, dict) or len(value) > _MAX_NAMES:
        raise ForestError(f"{key} must be an object", where=where)
    for name in value:
        if not _LITERAL.fullmatch(name):
            remedy = "write out the module names"
            text = f"{key} has a regular expression {name[:80]!r}"
            raise ForestError(text, where=where, remedy=remedy)
    return value


def _suffixes(module: str) -> list[str]:
    """The name itself and all that follows a dot in it: what PEFT's names and patterns match."""
    parts = module.split(".")
    return [".".join(parts[n:]) for n in range(len(parts))]


def _match(pattern: Mapping[str, V], module: str, default: V) -> V:
    suffixes = set(_suffixes(module))
    # PEFT takes the first key that matches, in the file's order.
    return next((value for name, value in pattern.items() if name in suffixes), default)


def _rank(value: Any, key: str, where: object) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_RANK:
        raise ForestError(f"{key} must be a rank from 1 to {_MAX_RANK}", where=where)
    return value


def _alpha(value: Any, key: str, where: object) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e9:
        raise ForestError(f"{key} must be a number", where=where)
    return float(value)


def _flag(value: Any, key: str, where: object) -> bool:
    if type(value) is not bool:
        raise ForestError(f"{key} must be true or false", where=where)
    return value

"""Questions as JSON objects and their answers: any row that somebody wants to compare.

    [{"name": "a", "kind": "decode", "batch_per_npu": 96, "kv_len": 4096, ...}, ...]

Each object comes back with the answers beside its own keys. `docs/planning.md` lists both.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from silva.config import build
from silva.errors import ConfigError
from silva.supernode.decode import decode_step
from silva.supernode.modelcache import model_cache
from silva.supernode.prefill import prefill_step
from silva.supernode.system import System
from silva.supernode.workload import DecodeLoad, ModelLoad, PrefillLoad

MAX_BYTES = 1 << 22
MAX_CASES = 10_000

KINDS: dict[str, type[Any]] = {
    "decode": DecodeLoad,
    "prefill": PrefillLoad,
    "model-cache": ModelLoad,
}

REQUIRED = {
    "decode": ("batch_per_npu", "kv_len"),
    "prefill": ("tokens_per_npu", "prompt_len"),
    "model-cache": ("policy",),
}


def read_cases(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON file.

    Raises ConfigError for a file that cannot be read, is not JSON (with the line), is too large, or
    holds anything but a list of objects.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigError(what, where=path, remedy="name a JSON file of cases") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes", where=path, remedy="split it")
    try:
        cases = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text", where=path, remedy="store it as UTF-8") from error
    except json.JSONDecodeError as error:
        what = f"line {error.lineno} is not JSON: {error.msg}"
        raise ConfigError(what, where=path, remedy="correct it there") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}"[:200], where=path, remedy="correct it") from error
    if not isinstance(cases, list) or len(cases) > MAX_CASES:
        what = f"not a list of at most {MAX_CASES:,} objects"
        raise ConfigError(what, where=path, remedy='write [{"kind": "decode", ...}, ...]')
    return cases


def answered(
    system: System, cases: list[dict[str, Any]], where: object = ""
) -> list[dict[str, Any]]:
    """Every case with its answers; ConfigError names the case, the key, and what is allowed."""
    given = []
    for number, case in enumerate(cases):
        place = f"{where}: case {number + 1}" if where else f"case {number + 1}"
        answers = answer(system, case, place)
        given.append({**case, **answers})
    return given


def answer(system: System, case: Mapping[str, Any], where: object = "case") -> dict[str, Any]:
    """The answers to one case, times in the unit that their name ends with."""
    load = _load(case, where)
    if isinstance(load, DecodeLoad):
        step = decode_step(system, load)
        return {
            "tpot_ms": step.tpot_s * 1e3,
            "iteration_ms": step.iteration_s * 1e3,
            "tokens_per_s_per_npu": step.tokens_per_s,
            "layer_us": step.layer_s * 1e6,
        }
    if isinstance(load, PrefillLoad):
        batch = prefill_step(system, load)
        return {
            "tokens_per_s_per_npu": batch.tokens_per_s,
            "ttft_ms": batch.first_token_s * 1e3,
            "layer_ms": batch.layer_s * 1e3,
        }
    loaded = dataclasses.asdict(model_cache(system, load))
    return {name: loaded[name] for name in ("cold_s", "warm_s", "switch_s", "dram_copies")}


def _load(case: Any, where: object) -> DecodeLoad | PrefillLoad | ModelLoad:
    if not isinstance(case, Mapping):
        raise ConfigError("not an object", where=where, remedy='write {"kind": ..., ...}')
    kind = case.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        what = f"kind {kind!r:.60} is not known" if "kind" in case else "has no kind"
        raise ConfigError(what, where=where, remedy=f"known: {', '.join(KINDS)}")
    if not isinstance(case.get("name", ""), str):
        raise ConfigError("a name is text", where=where, remedy="put it in quotes")
    values = {key: value for key, value in case.items() if key not in ("name", "kind")}
    for key in REQUIRED[kind]:
        if key not in values:
            raise ConfigError(f"{key} is missing", where=where, remedy="give it a value")
    return build(KINDS[kind], values, where)

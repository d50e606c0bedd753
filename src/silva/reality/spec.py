"""Measured figures as the text of a spec file, each with its source; steps and costs as sections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from silva.reality.steps import Found
from silva.supernode.profile import (
    DECODE_COLUMNS,
    JITTER_COLUMNS,
    PREFILL_COLUMNS,
    ServerCosts,
    Steps,
)

_SHARES = tuple((2 * n + 1) / 40 for n in range(20))
"""Of the steps; jitter is told at these."""
_DIGITS = 4


@dataclass(frozen=True)
class Figure:
    """A value, or rows with their columns, and where it comes from."""

    value: Any
    source: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What the system tells of itself."""

    name: str
    processor: str
    cores: int
    memory_bytes: int


Section = dict[str, Figure | str]


def steps_of(
    found: Sequence[Found], model: str, dtype: str, cores: int, threads: int, block_tokens: int
) -> Steps:
    """The tables of steps: medians, what sampling costs, and how steps spread around them."""
    rows: dict[str, list[tuple[float, ...]]] = {"prefill": [], "decode": []}
    ratios: dict[str, list[float]] = {"prefill": [], "decode": []}
    for each in found:
        alone, beside = float(np.median(each.alone_s)), float(np.median(each.beside_s))
        kind, tokens = each.point.role, float(each.point.second)
        if kind == "decode":  # requests grow while they are measured
            tokens += len(each.alone_s) / 2
        rows[kind].append((each.point.first, tokens, _short(alone * 1e3), _short(beside * 1e3)))
        ratios[kind] += (np.array(each.alone_s) / alone).tolist()
    return Steps(
        model=model,
        dtype=dtype,
        cores=cores,
        threads=threads,
        block_tokens=block_tokens,
        head_ms=_short(_head_s(found) * 1e3),
        prefill=tuple(rows["prefill"]),
        decode=tuple(rows["decode"]),
        prefill_jitter=_quantiles(ratios["prefill"]),
        decode_jitter=_quantiles(ratios["decode"]),
    )


def _head_s(found: Sequence[Found]) -> float:
    """What the last chunk of a prompt takes longer than the same chunk with more to come."""
    largest = max(each.point.first for each in found if each.point.role == "prefill")
    whole = [
        np.median(each.alone_s)
        for each in found
        if each.point.role == "prefill" and each.point.first == largest and not each.point.second
    ]
    earlier = [s for each in found for s in each.earlier_s]
    return max(0.0, float(whole[0] - np.median(earlier))) if earlier else 0.0


def _quantiles(ratios: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    return tuple((share, _short(float(np.quantile(ratios, share)))) for share in _SHARES)


def profile_sections(steps: Steps, server: ServerCosts, date: str) -> dict[str, Section]:
    """[profile.steps] and [profile.server]."""
    columns = {
        "prefill": PREFILL_COLUMNS,
        "decode": DECODE_COLUMNS,
        "prefill_jitter": JITTER_COLUMNS,
        "decode_jitter": JITTER_COLUMNS,
    }
    spread = f"repeated steps over the median of their kind, {date}"
    sources = {
        "cores": "cores that the process may use",
        "threads": "of a peer, as the server gives them",
        "block_tokens": "as the server has it",
        "prefill_jitter": spread,
        "decode_jitter": spread,
    }
    told: Section = {"model": steps.model, "dtype": steps.dtype}
    for each in fields(steps):
        if each.name not in told:
            value = getattr(steps, each.name)
            known = columns.get(each.name, ())
            source = sources.get(each.name, f"medians of repeated steps, {date}")
            told[each.name] = Figure(value, source, known)
    calm: Section = {
        each.name: Figure(getattr(server, each.name), f"measured on {date}, one request at a time")
        for each in fields(server)
    }
    return {"profile.steps": told, "profile.server": calm}


def as_toml(machine: Machine, note: str, sections: Mapping[str, Section]) -> str:
    """The text of a spec file."""
    lines = [f"# {note}", f"name = {_text(machine.name)}"]
    lines.append(f"die_name = {_text(machine.processor)}")
    for name, section in sections.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_shown(figure)}" for key, figure in section.items()]
    return "\n".join(lines) + "\n"


def _shown(figure: Figure | str) -> str:
    if isinstance(figure, str):
        return _text(figure)
    if not figure.columns:
        return f"{{ value = {_number(figure.value)}, source = {_text(figure.source)} }}"
    rows = "".join(f"\n    [{', '.join(map(_number, row))}]," for row in figure.value)
    names = ", ".join(map(_text, figure.columns))
    return f"{{ rows = [{rows}\n], columns = [{names}], source = {_text(figure.source)} }}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(f"{value:.6g}"))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a basic string of TOML


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")

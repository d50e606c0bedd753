"""`silva doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata, resources, util
from pathlib import Path
from typing import Annotated, Literal

import typer

from silva import __version__

Status = Literal["ok", "slow", "absent", "info"]
"""slow: works by a slower path; absent: something optional is not there; info: a plain fact."""

EXTRAS = {"huggingface_hub": "hub", "transformers": "test", "peft": "test"}
"""Optional library -> the extra of silva that brings it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `remedy` is empty where there is nothing to do."""

    name: str
    value: str
    status: Status = "info"
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Adds `silva doctor`."""
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Say what works here: native module, threads, memory, optional extras, embedded data."""
    findings = diagnose()
    if as_json:
        print(json.dumps({f.name: asdict(f) for f in findings}, indent=2))
        return
    width = max(len(f.name) for f in findings)
    for finding in findings:
        remedy = f"  ({finding.remedy})" if finding.remedy else ""
        print(f"{finding.status:>6}  {finding.name:<{width}}  {finding.value}{remedy}")


def diagnose() -> list[Finding]:
    """Everything `silva doctor` reports, in its order; imports torch."""
    findings = [
        Finding("silva", __version__),
        Finding("python", platform.python_version()),
        Finding("platform", platform.platform()),
        Finding("cores", str(usable_cores())),
        *_torch(),
        _bfloat16(),
        Finding("memory", _memory()),
        _native(),
        *(_extra(library, extra) for library, extra in EXTRAS.items()),
    ]
    return findings + asset_findings(_asset_files())


def asset_findings(files: Iterable[tuple[str, int]]) -> list[Finding]:
    """Whether default weights and embedded data came with the package; files are (name, bytes)."""
    files = sorted(files)
    kinds = {"default weights": (".safetensors",), "embedded data": (".npz", ".parquet")}
    found = []
    for kind, endings in kinds.items():
        here = [f"{name} ({size / 1e6:.1f} MB)" for name, size in files if name.endswith(endings)]
        if here:
            found.append(Finding(kind, ", ".join(here), "ok"))
        else:
            found.append(Finding(kind, "missing", "absent", "install silva again from a full copy"))
    return found


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torch() -> list[Finding]:
    import torch

    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    return [
        Finding("torch", f"{torch.__version__} ({accelerator})", "ok"),
        Finding("threads", str(torch.get_num_threads())),
    ]


def _bfloat16() -> Finding:
    from silva.models.arithmetic import emulates_bfloat16

    if emulates_bfloat16():
        return Finding("bfloat16", "emulated on this processor", "slow", "stay with float32")
    return Finding("bfloat16", "in the processor", "ok")


def _memory() -> str:
    """Total memory, and what is free for new work where the system tells."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return "unknown"
    text = f"{total / 2**30:.1f} GiB"
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        sizes = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        available = int(sizes.get("MemAvailable", "0 kB").split()[0])
        text += f", {available / 2**20:.1f} GiB available"
    return text


def _native() -> Finding:
    from silva.kernels import native_loaded

    if native_loaded():
        return Finding("native module", "loaded", "ok")
    remedy = "for the fast one install a C++ compiler such as g++, then silva again"
    return Finding("native module", "not built, portable operators in use", "slow", remedy)


def _extra(library: str, extra: str) -> Finding:
    if util.find_spec(library) is None:
        return Finding(library, "not installed", "absent", f"pip install 'silva[{extra}]'")
    return Finding(library, metadata.version(library), "ok")


def _asset_files() -> list[tuple[str, int]]:
    """Names and sizes in bytes of all files in `silva.assets`."""
    root = Path(str(resources.files("silva"))) / "assets"
    return [
        (path.relative_to(root).as_posix(), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    ]

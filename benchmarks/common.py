"""What every benchmark needs: facts of the machine, JSON, data, children that are measured.

A benchmark keeps the folders of its runs outside the repository (`--work`); only JSON goes into
`benchmarks/results`. Nothing here imports torch: a benchmark that measures the memory of a child
must be small itself, since a new process counts the peak of the one it was started from.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECIPES = ROOT / "recipes"
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors")
DATA_FILES = {"tin32": "tin32_fed100.npz", "thousand": "tin32_fed100.npz", "pacs": "pacs64.npz"}
"""Data file of a recipe, by the first word of its name."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument(
        "--work",
        type=Path,
        default=cache / "silva" / "benchmarks",
        help="folder of the runs; a benchmark that was killed goes on from there",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=ROOT.parent / "shared" / "data",
        help="folder of tin32_fed100.npz and pacs64.npz",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of the JSON that is written"
    )
    return parser


def data_file(folder: Path, recipe: str) -> Path:
    """The data of a recipe; leaves the program with one line when it is not there."""
    name = DATA_FILES.get(recipe.partition("-")[0])
    path = folder / (name or "")
    if name is None or not path.is_file():
        sys.exit(f"no data for {recipe}: {path} is no file (--data-dir)")
    return path.resolve()


def facts(more: Sequence[str] = ()) -> dict[str, Any]:
    """Machine, versions, commit and date: the circumstances of a measurement.

    more: other libraries that take part in it.
    """
    import silva

    versions = {"silva": silva.__version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in (*LIBRARIES, *more)}
    return {
        "machine": machine(),
        "versions": versions,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Short id of the checked-out commit, with a plus where tracked sources differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "-uno", "--", "src") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def heading(circumstances: dict[str, Any]) -> str:
    """The facts as the lines that a benchmark prints first."""
    host, versions = circumstances["machine"], circumstances["versions"]
    return "\n".join(
        (
            f"machine   {host['processor']}, {host['cores']} cores, "
            f"{host['memory_bytes'] / 2**30:.1f} GiB, {host['system']}",
            "versions  " + ", ".join(f"{name} {version}" for name, version in versions.items()),
            f"commit    {circumstances['commit']}, {circumstances['date']}",
        )
    )


def write_json(path: Path, data: Any) -> None:
    """Replace `path` by `data` as JSON, whole or not at all; equal data give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")
    scratch.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def silva_command() -> list[str]:
    """How to start `silva` with this interpreter, installed as a script or not."""
    return [sys.executable, "-c", "from silva.cli.main import run; run()"]


def environment(threads: int) -> dict[str, str]:
    """Environment of a child that may use `threads` threads (numpy's included)."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


@dataclass(frozen=True)
class Outcome:
    """How a child ended: exit code, wall-clock seconds, peak resident memory in bytes."""

    code: int
    seconds: float
    peak_bytes: int


def run_child(
    command: Sequence[str],
    log: Path,
    threads: int,
    *,
    cwd: Path | None = None,
    keep: tuple[int, ...] = (),
) -> Outcome:
    """Run a command to its end with its output in `log`; `keep`: descriptors it inherits."""
    started = time.perf_counter()
    with log.open("ab") as stream:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment(threads),
            cwd=cwd,
            pass_fds=keep,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Outcome(child.returncode, time.perf_counter() - started, usage.ru_maxrss * unit)


@contextmanager
def locked(folder: Path) -> Iterator[IO[str]]:
    """Hold `folder`; a child that inherits the file holds it too.

    A killed benchmark may leave a child behind that still works: the next one waits for it here
    instead of writing into the same run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process at {folder}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for an error message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median and range over repetitions, and each of them."""
    held = list(values)
    return {
        "median": statistics.median(held),
        "min": min(held),
        "max": max(held),
        "values": held,
    }


def ratio(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two spreads over the same repetitions: how many times the other, within each of them."""
    return spread(a / b for a, b in zip(own["values"], other["values"], strict=True))

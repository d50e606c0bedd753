"""`silva profile`: measures this machine and writes its spec file."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from silva import __version__
from silva.config import setting
from silva.errors import ConfigError
from silva.models.llama_config import LlamaConfig, read_config
from silva.reality import spec
from silva.reality.calm import Kind, costs_of, kinds_of, measure_calm
from silva.reality.process import serving
from silva.reality.steps import Grid, Point, measure_steps
from silva.serving.config import ServeConfig

if TYPE_CHECKING:
    from silva.reality.kernels import Kernels

Watch = Callable[[str], None]


@dataclass(frozen=True)
class ProfileConfig:
    """What `silva profile` can be told."""

    model: str = setting("smollm2", help="a model's name, or the path of its directory or GGUF")
    point_s: float = setting(
        1.5, help="seconds for each kind of step, twice: alone and beside", low=0.0, high=600.0
    )
    calm_requests: int = setting(
        6, help="requests of each of three kinds to a calm server", low=2, high=1000
    )


@dataclass(frozen=True)
class Target:
    """A model's directory, and how a server of it is started.

    ConfigError for a server that cannot be measured.
    """

    path: Path
    arguments: tuple[str, ...]
    """Of `silva serve`: the model and all settings."""
    config: ServeConfig

    def __post_init__(self) -> None:
        _check_served(self.config)

    @property
    def peers(self) -> int:
        """Processes that have to be ready."""
        pools = self.config.pools
        return pools.prefill + pools.decode + pools.cache

    @property
    def threads(self) -> int:
        """Threads of one engine, as the server gives them."""
        from silva.serving.spread import threads_each

        return self.config.threads or threads_each(self.config)


def write_profile(config: ProfileConfig, target: Target, out: Path, watch: Watch) -> None:
    """Measure everything and write `out`. Raises ConfigError, RunError, ServingError."""
    text = measure_profile(config, target, watch)
    try:
        out.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=out) from error


def measure_profile(config: ProfileConfig, target: Target, watch: Watch) -> str:
    """The text of the spec file."""
    model = read_config(target.path)
    threads, cores = target.threads, len(os.sched_getaffinity(0))
    watch("kernels, memory and transfers")
    kernels = _kernels(threads, model, target.config)
    from silva.reality.machine import hardware_sections

    context = model.context
    grid = Grid.of(target.config, context, config.point_s)
    found = measure_steps(target.config, target.path, threads, grid, lambda p: watch(_step(p)))
    block = target.config.kv.block_tokens
    dtype = target.config.dtype
    steps = spec.steps_of(found, config.model, dtype, cores, threads, block)
    kinds = kinds_of(target.config.step.chunk_tokens, context, config.calm_requests)
    watch("a calm server: starting")
    with serving(target.arguments, target.peers) as server:
        calm = measure_calm(server, kinds, model.vocab_size, lambda kind: watch(_calm(kind)))
    costs = costs_of(steps, *calm)
    machine = this_machine(cores)
    itemsize = 2 if dtype == "bfloat16" else 4
    sections = hardware_sections(machine, kernels, itemsize, costs.decode_loop_ms / 1e3)
    now = datetime.now(UTC)
    sections |= spec.profile_sections(steps, costs, now.date().isoformat())
    note = (
        f"This machine as silva {__version__} measured it on {now:%Y-%m-%d %H:%M} UTC; "
        f"load of the system before: {_load()}."
    )
    return spec.as_toml(machine, note, sections)


def _check_served(config: ServeConfig) -> None:
    """ConfigError for a server that cannot be compared yet."""
    if config.colocated:
        remedy = "leave --colocated out"
        raise ConfigError("a colocated server is not measured", remedy=remedy)
    if config.roles.auto:
        remedy = "leave --auto-roles out"
        raise ConfigError("a server that changes its roles is not measured", remedy=remedy)


def this_machine(cores: int) -> spec.Machine:
    """Name, processor, cores of this process, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return spec.Machine("here", _processor(), cores, memory)


def serve_arguments(model: str, config: Path | None, sets: Sequence[str]) -> tuple[str, ...]:
    """The command line of `silva serve` for the same settings."""
    from_file = ("--config", str(config)) if config else ()
    return (model, *from_file, *(part for text in sets for part in ("--set", text)))


def _kernels(threads: int, model: LlamaConfig, config: ServeConfig) -> Kernels:
    import torch

    from silva.reality.kernels import measure_kernels

    return measure_kernels(threads, model, getattr(torch, config.dtype), config.kv.block_tokens)


def _step(point: Point) -> str:
    if point.role == "prefill":
        return f"a step of {point.first} tokens after {point.second}"
    return f"a step of {point.first} requests of {point.second} tokens"


def _calm(kind: Kind) -> str:
    return f"a calm server: prompts of {kind.prompt} tokens, answers of {kind.output}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _load() -> str:
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())

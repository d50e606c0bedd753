"""`silva validate here`: a profile of this machine, measured now or read, against its server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from silva.config import setting
from silva.errors import ConfigError
from silva.models.llama_config import read_config
from silva.reality.compare import Comparison, compare
from silva.reality.profile import ProfileConfig, Target, write_profile
from silva.reality.trace import TraceConfig, check_lengths
from silva.supernode.hardware import read_hardware
from silva.supernode.profile import Profile


@dataclass(frozen=True)
class HereConfig:
    """What `silva validate here` can be told."""

    profile: ProfileConfig = field(default_factory=ProfileConfig)
    trace: TraceConfig = field(default_factory=TraceConfig)
    turns: int = setting(5, help="times that server and model are given the trace", low=1, high=100)


def validate_here(
    config: HereConfig,
    target: Target,
    file: Path | None,
    watch: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Compare; `file`: a profile measured before. Raises ConfigError, RunError, ServingError."""
    profile = None if file is None else read_profile(file, config.profile.model, target)
    # Before minutes are spent; where the profile finds the rate, a few requests stand for all.
    check_lengths(config.trace, config.trace.rate or 1.0, read_config(target.path).context)
    if profile is None:
        with tempfile.TemporaryDirectory(prefix="silva-reality-") as folder:
            path = Path(folder) / "here.toml"
            write_profile(config.profile, target, path, watch)
            profile = read_profile(path, config.profile.model, target)
    return compare(target, profile, config.trace, config.turns, watch)


def read_profile(file: Path, model: str, target: Target) -> Profile:
    """The profile of a spec file, of this model and of engines as this server has them.

    Raises ConfigError, also for a machine without one.
    """
    remedy = "run silva profile with the settings of the server"
    found = read_hardware(str(file)).spec.profile if file.suffix == ".toml" else None
    if found is None:
        raise ConfigError("holds no profile of a model's steps", where=file, remedy=remedy)
    steps, config = found.steps, target.config
    pairs = {
        "model": (steps.model, model),
        "dtype": (steps.dtype, config.dtype),
        "threads": (steps.threads, target.threads),
        "cores": (steps.cores, len(os.sched_getaffinity(0))),
        "block_tokens": (steps.block_tokens, config.kv.block_tokens),
    }
    for name, (known, asked) in pairs.items():
        if known != asked:
            what = f"was measured with {known}, and {asked} is asked for"
            raise ConfigError(what, where=f"{file}: profile.steps.{name}", remedy=remedy)
    return found

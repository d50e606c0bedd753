"""A made-up profile, simple enough to know what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from silva.config import build
from silva.control.state import Settings
from silva.reality.twin import Asked
from silva.serving.config import ServeConfig
from silva.supernode.profile import Profile, ServerCosts, Steps

STEADY = ((0.0, 1.0), (1.0, 1.0))
CALM = ServerCosts(**dict.fromkeys(ServerCosts.__dataclass_fields__, 0.0))


def steps(**changes: Any) -> Steps:
    """A token of a prompt takes 1 ms; a step of decode 10 ms and 1 ms a request. Nothing else."""
    made = Steps(
        model="tiny",
        dtype="float32",
        cores=2,
        threads=1,
        block_tokens=16,
        head_ms=0.0,
        prefill=((1, 0, 1.0, 1.0), (64, 0, 64.0, 64.0)),
        decode=((1, 10, 11.0, 11.0), (16, 10, 26.0, 26.0)),
        prefill_jitter=STEADY,
        decode_jitter=STEADY,
    )
    return replace(made, **changes)


def profile(server: ServerCosts = CALM, **changes: Any) -> Profile:
    """`steps` on a server that adds nothing."""
    return Profile(steps(**changes), server)


def config(**changes: Any) -> ServeConfig:
    """One peer of each kind, chunks of 64 tokens."""
    return build(ServeConfig, {"step": {"chunk_tokens": 64}, **changes}, "test")


SETTINGS = Settings(blocks=256, context_tokens=1024, block_tokens=16, step_tokens=64)


def asked(at_s: float, prompt: int, output: int, first: int = 0) -> Asked:
    """A request whose prompt has nothing in common with those of another `first`."""
    return Asked(at_s, tuple(range(first, first + prompt)), output)

"""What a start imports: where and when, and nothing that serving does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "transformers",
    "matplotlib",
    "pandas",
    "sklearn",
    "scipy",
    "sympy",
    "pyarrow",
    "PIL",
    "gguf",
    "llguidance",
    "torch._dynamo",
    "torch._inductor",
)


def run(program: str) -> list[str]:
    """The words that a fresh Python prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def imported(module: str, wanted: tuple[str, ...]) -> list[str]:
    """Which of these are loaded by importing a module."""
    return run(f"import sys, {module}\nprint(*(m for m in {wanted!r} if m in sys.modules))")


def test_peers_are_forked_from_a_process_that_imported_torch_and_little_else() -> None:
    assert imported("silva.serving.peers.preload", ("torch", *HEAVY)) == ["torch"]


@pytest.mark.parametrize("module", ["silva.serving.launch", "silva.serving.supervisor"])
def test_the_front_begins_without_torch(module: str) -> None:
    assert imported(module, ("torch", *HEAVY)) == []


PRELOADS = """
import psutil
from silva.serving.forked import preload
preload()
preload()
lines = [" ".join(c.cmdline()) for c in psutil.Process().children()]
print(sum("forkserver" in line for line in lines), sum("peers.preload" in line for line in lines))
"""


def test_that_process_can_be_started_before_the_first_peer_and_is_one() -> None:
    assert run(PRELOADS) == ["1", "1"]

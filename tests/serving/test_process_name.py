"""What the system calls the processes of a server."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from silva.serving.process_name import show_thread_as, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("front", "silva-front"),
        ("prefill-1", "silva-prefill-1"),
        ("prefill-12", "silva-prefil-12"),
        ("decode-9999", "silva-deco-9999"),
    ],
)
def test_a_name_is_short_and_keeps_its_number(name: str, expected: str) -> None:
    assert shown(name) == expected
    assert len(expected) <= 15


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their names")
def test_the_system_shows_it() -> None:
    program = """
import psutil
from silva.serving.process_name import show_as
show_as("decode-3")
print(psutil.Process().name())
"""
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True).strip() == "silva-decode-3"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their names")
def test_a_thread_has_a_name_of_its_own() -> None:
    heard: list[str] = []

    def work() -> None:
        show_thread_as("transfer")
        heard.append(Path("/proc/thread-self/comm").read_text().strip())

    before = Path("/proc/self/comm").read_text()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == ["silva-transfer"]
    assert Path("/proc/self/comm").read_text() == before

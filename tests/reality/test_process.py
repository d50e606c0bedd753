"""Processes of a server: who belongs to it, and what they consume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from silva.errors import RunError
from silva.reality import process
from silva.reality.process import cpu_s, family, own_cpu_s, serving

pytestmark = pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="no schedstat")


def test_children_of_children_belong_to_the_family() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        found = family(child.pid)
        while len(found) < 2 and child.poll() is None:
            found = family(child.pid)
        assert child.pid in found
        assert found <= family(os.getpid())
        child.communicate(b"\n")


def test_seconds_of_cores_grow_with_work() -> None:
    before = own_cpu_s()
    sum(n * n for n in range(200_000))
    assert own_cpu_s() > before
    assert cpu_s(1 << 30) == 0.0


def test_a_server_that_does_not_come_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('no such model'); raise SystemExit(2)"
    monkeypatch.setattr(process, "_COMMAND", (sys.executable, "-c", code))
    with pytest.raises(RunError, match="no such model"), serving(("tiny",), 3):
        pass

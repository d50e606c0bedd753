from __future__ import annotations

import subprocess
import sys

ASLEEP = """
import ctypes, sys
from types import SimpleNamespace
from silva.experts.bell import Bell
from silva.experts.flags import flags_for

word = ctypes.c_uint32(0)
board = SimpleNamespace(bell=ctypes.addressof(word), rung=0, sleeps=False)
bell = Bell(board, flags_for(sys.argv[1]), lambda: None)
bell.sleep_until(7)
if sys.argv[2] == "closed":
    bell.close()
    import threading
    assert not any(t.name == "bell" for t in threading.enumerate())
"""


def test_a_process_ends_as_it_should_with_a_bell_that_sleeps() -> None:
    for backend in ("auto", "portable"):
        for end in ("closed", "left"):
            command = [sys.executable, "-c", ASLEEP, backend, end]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert (ended.returncode, ended.stderr) == (0, ""), (backend, end)

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from silva.experts import bell as bells
from silva.experts.bell import Bell
from silva.experts.flags import flags_for

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


def test_the_owner_is_called_for_a_vote_and_now_and_then_if_it_has_to_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bells, "LOOK_S", 0.05)
    word, rung = ctypes.c_uint32(0), threading.Event()
    board = SimpleNamespace(bell=ctypes.addressof(word), rung=0, sleeps=False)
    bell = Bell(board, flags_for(), rung.set)
    bell.sleep_until(7)
    assert not rung.wait(0.3)
    bell.wake()
    bell.sleep_until(8, looks=True)
    assert rung.wait(30)
    rung.clear()
    bell.sleep_until(9)
    flags_for().post(board.bell, [9])
    assert rung.wait(30)
    bell.close()

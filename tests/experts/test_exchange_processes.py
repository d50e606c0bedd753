"""Both exchanges between real processes, one of which is killed at the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from silva.experts import futex

PROGRAM = Path(__file__).with_name("exchange_process.py")
LIMIT_S = 300.0


@pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")
def test_both_exchanges_agree_and_a_killed_rank_is_left_out(tmp_path: Path) -> None:
    ranks = 3
    running = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(ranks), str(tmp_path / "store")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    # One that hangs must not hang the test: what has ended says nothing, which is no answer.
    limit = threading.Timer(LIMIT_S, lambda: [process.kill() for process in running])
    limit.start()
    try:
        members = [said(process) for process in running]
        for process in running:
            tell(process, f"[{','.join(members)}]")
        assert [said(process) for process in running] == ["agreed"] * ranks
        for process in running:
            tell(process, "go on")
        assert [said(process) for process in running[:-1]] == [f"[{ranks - 1}]"] * (ranks - 1)
        assert running[-1].wait() == -9
    finally:
        limit.cancel()
        for process in running:
            process.kill()
            process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
